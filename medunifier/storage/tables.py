"""Typed Parquet tables: the columns that stages may rely on, checked when written and when read."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import atomic_path

LABEL_PREFIX = "label_"


@dataclass(frozen=True)
class Schema:
    """The columns of a table. `required` ones may hold no nulls; `labels` admits nullable int8 `label_*`."""

    name: str
    columns: Mapping[str, pl.DataType | type[pl.DataType]]
    required: frozenset[str] = field(default_factory=frozenset)
    labels: bool = False

    def violations(self, frame: pl.DataFrame) -> list[str]:
        """Every way in which `frame` departs from the schema, in words; empty when it conforms."""
        found = dict(frame.schema)
        wrong = [f"column '{name}' is missing" for name in self.columns if name not in found]
        for name, dtype in found.items():
            expected = self.columns.get(
                name, pl.Int8 if self.labels and name.startswith(LABEL_PREFIX) else None
            )
            if expected is None:
                wrong.append(f"column '{name}' is not known")
            elif dtype != expected:
                wrong.append(f"column '{name}' is {dtype}, expected {expected}")
            elif name in self.required and (nulls := frame[name].null_count()):
                wrong.append(f"column '{name}' has {nulls} nulls, expected none")
        return wrong

    def empty(self) -> pl.DataFrame:
        """A frame of these columns without rows."""
        return pl.DataFrame(schema=dict(self.columns))

    def check(self, frame: pl.DataFrame, source: str) -> None:
        """ValueError, naming `source`, if `frame` departs from the schema."""
        if wrong := self.violations(frame):
            raise ValueError(f"{source}: not a {self.name} table: {'; '.join(wrong)}")


_PREPARED_COLUMNS = {
    "image_id": pl.String,
    "patient_id": pl.String,
    "study_id": pl.String,
    "image_path": pl.String,  # relative to the data set's root
    "view": pl.String,
    "findings": pl.String,
    "impression": pl.String,
    "report": pl.String,
}
_PREPARED_REQUIRED = frozenset({"image_id", "patient_id", "study_id", "image_path"})

PREPARED = Schema("prepared", _PREPARED_COLUMNS, _PREPARED_REQUIRED, labels=True)
BENCHMARK = Schema(
    "benchmark",
    {**_PREPARED_COLUMNS, "benchmark_class": pl.String},
    _PREPARED_REQUIRED | {"benchmark_class"},
    labels=True,
)
REJECTED = Schema(
    "rejected",
    {"image_id": pl.String, "study_id": pl.String, "reason": pl.String, "detail": pl.String},
    frozenset({"reason"}),
)

# The image files behind the prepared tables: all that decoding needs to know.
MANIFEST = Schema(
    "manifest",
    {
        "image_id": pl.String,
        "study_id": pl.String,
        "image_path": pl.String,  # relative to the data set's root
        "bytes": pl.Int64,
        "sha256": pl.String,  # as the data set lists it; null if it does not
    },
    frozenset({"image_id", "study_id", "image_path", "bytes"}),
)


def write_table(frame: pl.DataFrame, path: str | Path, schema: Schema | None) -> None:
    """Write `frame` as Parquet, atomically. A frame that departs from `schema` is a bug: ValueError."""
    if schema:
        schema.check(frame, str(path))
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd")
    # By hand: polars makes a full disk an error of its own, without the errno.
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_table(path: str | Path, schema: Schema | None = None) -> pl.DataFrame:
    """Read a Parquet table. A missing or broken file, or a departure from `schema`, raises InputError."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such table; run the stage that makes it (snakemake or dvc repro)")
    try:
        frame = pl.read_parquet(path)
    except pl.exceptions.ComputeError as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({error}); delete it and run its stage again"
        ) from error
    if schema and (wrong := schema.violations(frame)):
        raise InputError(f"{path}: not a {schema.name} table: {'; '.join(wrong)}; run its stage again")
    return frame
