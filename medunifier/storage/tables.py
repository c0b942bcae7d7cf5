"""Typed Parquet tables: the columns that stages rely on, checked on writing and on reading."""

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
    """The columns of a table.

    Attributes:
        name: of the kind of table, for messages.
        columns: names and types.
        required: names of the columns without nulls.
        labels: whether nullable int8 columns `label_*` are allowed, too.
    """

    name: str
    columns: Mapping[str, pl.DataType | type[pl.DataType]]
    required: frozenset[str] = field(default_factory=frozenset)
    labels: bool = False

    def violations(self, frame: pl.DataFrame) -> list[str]:
        """Describe every deviation of `frame` from the schema; empty if there is none."""
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
        """Return a table of these columns without rows."""
        return pl.DataFrame(schema=dict(self.columns))

    def check(self, frame: pl.DataFrame, source: str) -> None:
        """Check `frame` against the schema.

        Raises:
            ValueError: `frame` deviates; the message names `source`.
        """
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

# Frontal views as the layouts name them in `view`; oblique, axial and decubitus views are not among them.
FRONTAL = ("PA", "AP", "AP Supine", "Frontal")

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

# The image files of the prepared tables: the only table that decoding reads.
MANIFEST = Schema(
    "manifest",
    {
        "image_id": pl.String,
        "study_id": pl.String,
        "image_path": pl.String,  # relative to the data set's root
        "bytes": pl.Int64,
        "sha256": pl.String,  # as listed by the data set, else null
    },
    frozenset({"image_id", "study_id", "image_path", "bytes"}),
)


def write_table(frame: pl.DataFrame, path: str | Path, schema: Schema | None) -> None:
    """Write `frame` as Parquet, atomically.

    Raises:
        ValueError: `frame` deviates from `schema` (a bug).
    """
    if schema:
        schema.check(frame, str(path))
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd")
    # Written from memory: polars reports a full disk as an error of its own, without errno.
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_table(path: str | Path, schema: Schema | None = None) -> pl.DataFrame:
    """Read a Parquet table.

    Raises:
        InputError: The file is missing or broken, or deviates from `schema`.
    """
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
