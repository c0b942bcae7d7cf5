"""Rejected images: every reason that a `rejected.parquet` may contain, and the bookkeeping of rejections."""

from collections import Counter
from enum import StrEnum
from typing import Self

import polars as pl

from medunifier.storage.tables import REJECTED


class Reason(StrEnum):
    """Why an image is rejected. The value is stored in tables; `explanation` is for readers."""

    explanation: str

    def __new__(cls, value: str, explanation: str) -> Self:
        """Make a member with an explanation."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.explanation = explanation
        return member

    DUPLICATE_ID = "duplicate_id", "the index lists this image_id a second time; the first row is kept"
    CONTRADICTORY = (
        "contradictory",
        "the index describes this image several times, and not alike; none of its rows is kept",
    )
    MISSING_PATIENT = (
        "missing_patient",
        "the patient's id is blank, so no split can keep the patient together",
    )
    OUTSIDE_ROOT = "outside_root", "the path in the index leaves the root of the data set"
    OTHER_MODALITY = "other_modality", "not a radiograph (a CT slice, for example)"
    EXCLUDED = "excluded", "the data set itself marks the image as not to be used"
    OTHER_VIEW = "other_view", "the view is not among `views`, or is blank"
    MISSING_SPLIT = "missing_split", "the split file (the data set's or yours) does not list the image"
    MISSING_IMAGE = "missing_image", "the image's file is not there"
    MISSING_REPORT = "missing_report", "the study's report file is not there"
    UNREADABLE_REPORT = "unreadable_report", "the report is no text in UTF-8 or Latin-1"
    CONTRADICTORY_REPORT = "contradictory_report", "the index gives the study's images different reports"
    MISSING_FINDINGS = "missing_findings", "there is an impression but no findings; `sections` asks for both"
    MISSING_IMPRESSION = (
        "missing_impression",
        "there are findings but no impression; `sections` asks for both",
    )
    MISSING_TEXT = (
        "missing_text",
        "neither findings nor impression, nor (with `sections: either`) any other text",
    )
    TEST_PATIENT = "test_patient", "kept out of training: the patient is in the data set's own test list"
    BENCHMARK_PATIENT = "benchmark_patient", "kept out of training: the patient is in the benchmark"
    UNREADABLE_IMAGE = (
        "unreadable_image",
        "the image's file is truncated, broken, of an unknown kind, or a folder",
    )
    TOO_LARGE_IMAGE = "too_large_image", "the image has more than `images.max_megapixels` million pixels"
    WRONG_CHECKSUM = "wrong_checksum", "the file is not the one whose checksum the data set lists"


class Selection:
    """Rows that are either kept or rejected for one reason; rules reject them step by step.

    Attributes:
        kept: the rows that no rule has rejected so far.
        notes: counts of the rules for summary.json.
        warnings: what the rules found that the user should know, a sentence each.
    """

    def __init__(self, rows: pl.DataFrame):
        self.kept = rows
        self.notes: dict[str, int] = {}
        self.warnings: list[str] = []
        self._rejected: list[pl.DataFrame] = []

    def reject(self, where: pl.Expr, reason: Reason | pl.Expr, detail: pl.Expr) -> None:
        """Move the kept rows that satisfy `where` to the rejected rows."""
        reason = pl.lit(reason.value) if isinstance(reason, Reason) else reason
        where = where.fill_null(False)
        rows = self.kept.filter(where)
        columns = ("image_id", "study_id", reason.alias("reason"), detail.cast(pl.String).alias("detail"))
        self._rejected.append(rows.select(columns))
        self.kept = self.kept.filter(~where)

    @property
    def rejected(self) -> pl.DataFrame:
        """All rejected rows (schema REJECTED), ordered by reason and image."""
        empty = pl.DataFrame(schema=dict(REJECTED.columns))
        return pl.concat([empty, *self._rejected]).sort("reason", "image_id", maintain_order=True)

    def counts(self) -> dict[str, int]:
        """Map reasons to numbers of rejected rows, the most frequent first."""
        return dict(Counter(self.rejected["reason"]).most_common())
