"""Layouts: how each data set is read as it is distributed. A new layout is one more module in this folder.

A layout states facts of its data set alone. What holds for all is done elsewhere: `medunifier/data/index_files.py` reads
tables and lists (number of fields, missing words, ids, contradictions, files that must match);
`medunifier/data/dataset_files.py` finds files; preparation rejects paths that leave the root, missing files, repeated
and contradictory rows, and blank patients.
"""

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Protocol, cast

import polars as pl

from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset
from medunifier.storage.tables import Schema

# Name of a layout -> its module, which has the attributes of `Layout`: every module in this folder.
LAYOUTS = {module.name: f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)}

# What the CheXpert labeler finds (Irvin et al. 2019), as the label files of CheXpert and MIMIC-CXR name it.
CHEXPERT_LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
    "Fracture", "Support Devices",
)  # fmt: skip

# One row for each image of the index, in its order. A blank `patient_id` is rejected in preparation. `sex` is F or M,
# `age` in years: both are read for text from labels alone. `split` is the official one (train, validate, test),
# `sha256` the listed checksum. `reason` (a value of `Reason`) and `detail` are set where the layout rejects the row.
RAW_IMAGES = Schema(
    "raw images",
    {
        "image_id": pl.String,
        "patient_id": pl.String,
        "study_id": pl.String,
        "image_path": pl.String,
        "view": pl.String,
        "sex": pl.String,
        "age": pl.Int64,
        "split": pl.String,
        "sha256": pl.String,
        "reason": pl.String,
        "detail": pl.String,
    },
    frozenset({"image_id", "study_id", "image_path"}),
    labels=True,
)

# One row for each study. `body` is the text of a report that has neither findings nor impression.
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
    """Rows that a layout read.

    Attributes:
        rows: a table with the columns of RAW_IMAGES or RAW_REPORTS.
        notes: counts for summary.json, other than those of rejected rows.
        warnings: what the user should know, a sentence each: files that match in part, ids that look alike.
    """

    rows: pl.DataFrame
    notes: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Layout(Protocol):
    """How one data set is read. Both functions raise InputError for index files that cannot be used."""

    SOURCE: str  # where to get the data set, in one sentence

    def read_images(self, settings: Dataset) -> Raw:
        """Return every row of the index: columns of RAW_IMAGES plus nullable int8 labels `label_*`."""
        ...

    def read_reports(self, settings: Dataset, images: pl.DataFrame) -> Raw:
        """Return the reports of the studies of `images` (RAW_IMAGES rows): columns of RAW_REPORTS, one row a study."""
        ...


def no_reports(settings: Dataset, images: pl.DataFrame) -> Raw:
    """Return no rows: the `read_reports` of a data set without reports."""
    return Raw(RAW_REPORTS.empty())


def raw_images(rows: pl.DataFrame) -> pl.DataFrame:
    """Return `rows` with every missing column of RAW_IMAGES added as null."""
    missing = {name: dtype for name, dtype in RAW_IMAGES.columns.items() if name not in rows.columns}
    return rows.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in missing.items())


def find_layout(name: str) -> Layout:
    """Return the module of the layout `name`.

    Raises:
        InputError: There is no such layout; the message lists those there are.
    """
    if name not in LAYOUTS:
        raise InputError(f"datasets.*.layout: no layout {name!r}; known: {', '.join(LAYOUTS)}")
    return cast(Layout, importlib.import_module(LAYOUTS[name]))
