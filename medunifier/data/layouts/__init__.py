"""Data sets as distributed. A new layout is one module with the functions of `Layout` and one line below."""

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import polars as pl

from medunifier.runtime.errors import InputError
from medunifier.storage.tables import Schema

if TYPE_CHECKING:
    from medunifier.runtime.params import Dataset

LAYOUTS = {
    "mimic_cxr": "medunifier.data.layouts.mimic_cxr",
    "covid_chestxray": "medunifier.data.layouts.covid_chestxray",
    "chexpert": "medunifier.data.layouts.chexpert",
    "rsna": "medunifier.data.layouts.rsna",
    "siim_acr": "medunifier.data.layouts.siim_acr",
    "covidx": "medunifier.data.layouts.covidx",
    "iu_xray": "medunifier.data.layouts.iu_xray",
}

# One row for each image that the index lists, in its order. `split` is the data set's own (train, validate,
# test), `sha256` the checksum it lists; `reason` and `detail` are set where the layout rejects the row.
RAW_IMAGES = Schema(
    "raw images",
    {
        "image_id": pl.String,
        "patient_id": pl.String,
        "study_id": pl.String,
        "image_path": pl.String,
        "view": pl.String,
        "split": pl.String,
        "sha256": pl.String,
        "reason": pl.String,
        "detail": pl.String,
    },
    frozenset({"image_id", "patient_id", "study_id", "image_path"}),
    labels=True,
)

# One row for each study. `body` is the text of a report that has neither section.
RAW_REPORTS = Schema(
    "raw reports",
    {
        "study_id": pl.String,
        "findings": pl.String,
        "impression": pl.String,
        "body": pl.String,
        "reason": pl.String,
        "detail": pl.String,
    },
    frozenset({"study_id"}),
)


@dataclass(frozen=True)
class Raw:
    """What a layout read: `rows` in RAW_IMAGES or RAW_REPORTS, `notes` counts worth telling (no rejects)."""

    rows: pl.DataFrame
    notes: dict[str, int] = field(default_factory=dict)


class Layout(Protocol):
    """How one data set is read. Both functions raise InputError for index files that cannot be used."""

    SOURCE: str  # where to get the data set, in a sentence

    def read_images(self, settings: "Dataset") -> Raw:
        """Every row of the index, in RAW_IMAGES columns plus nullable int8 `label_*`."""

    def read_reports(self, settings: "Dataset", images: pl.DataFrame) -> Raw:
        """The texts of the studies of `images` (RAW_IMAGES rows), in RAW_REPORTS columns, one row a study."""


def no_reports(settings: "Dataset", images: pl.DataFrame) -> Raw:
    """The `read_reports` of a data set without texts."""
    return Raw(RAW_REPORTS.empty())


def raw_images(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` with the columns of RAW_IMAGES that a layout does not know added as nulls."""
    missing = {name: dtype for name, dtype in RAW_IMAGES.columns.items() if name not in rows.columns}
    return rows.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in missing.items())


def find_layout(name: str) -> Layout:
    """The module that reads layout `name`; InputError lists the known ones."""
    if name not in LAYOUTS:
        raise InputError(f"datasets.*.layout: no layout {name!r}; known: {', '.join(LAYOUTS)}")
    return importlib.import_module(LAYOUTS[name])
