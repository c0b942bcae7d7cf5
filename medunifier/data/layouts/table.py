"""A table of your own: a CSV or Parquet file, one row for each image, whose columns `datasets.NAME.table` names.

index.images: the file. Images are JPEG, PNG or DICOM files below the root. Rows of one study share its report.
"""

import re
from pathlib import Path

import polars as pl

from medunifier.data.index_files import check_values, read_index
from medunifier.data.layouts import RAW_REPORTS, Raw, raw_images
from medunifier.data.patient_columns import as_age, as_sex
from medunifier.data.preparation.sections import clean_text, parse_report
from medunifier.data.preparation.splits import as_split, keep_official
from medunifier.data.raw_rows import one_report_each
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset, TableLayout
from medunifier.storage.tables import LABEL_PREFIX

SOURCE = "your own images and their table; docs/data.md says what the table holds"
_BOOLEANS = {"true": "1", "false": "0"}
# Headings of a report in one column, in any case at the start of a line; within a line, in capitals, or with one after
# the end of a sentence, since exports often join a report's lines.
_HEADING = re.compile(
    r"(?P<before>^[ \t]*|[ \t]+)(?P<name>findings?|impression|conclusion|comparison|indication|(?:clinical )?history|"
    r"clinical information|technique|procedure|exam(?:ination)?|reason for exam(?:ination)?|recommendations?)[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)


def read_images(settings: Dataset) -> Raw:
    """Return one row for each row of the table, with the labels that `table.labels` names."""
    table, path = _table(settings)
    ids = list(dict.fromkeys(filter(None, (table.image, table.patient, table.study))))
    others = [table.view, table.sex, table.age, table.split, *table.labels.values()]
    columns = list(dict.fromkeys([*ids, *filter(None, others)]))
    notes: dict[str, int] = {}
    filled = [name for name in ids if name != table.patient]
    frame = read_index(path, columns, filled=filled, notes=notes, ids=[table.patient])
    if table.split is not None:
        known = as_split(pl.col(table.split)).is_not_null()
        check_values(frame, table.split, known, "train, validate (val) or test", path)
    for column in table.labels.values():
        known = _number(column).is_in([1.0, 0.0, -1.0])
        check_values(frame, column, known, "1, 0, -1 (uncertain), true, false or blank", path)
    image = pl.format("{}{}", table.image, pl.lit(table.suffix or ""))
    base = "" if table.folder in (".", "./") else table.folder.rstrip("/") + "/"
    rows = frame.select(
        pl.col(table.image).alias("image_id"),
        pl.col(table.patient).alias("patient_id"),
        pl.col(table.study or table.image).alias("study_id"),
        pl.format("{}{}", pl.lit(base), image).alias("image_path"),
        _column(table.view).alias("view"),
        as_sex(_column(table.sex)).alias("sex"),
        as_age(_column(table.age)).alias("age"),
        as_split(_column(table.split)).alias("split"),
        *(
            _number(column).cast(pl.Int8).alias(LABEL_PREFIX + label)
            for label, column in table.labels.items()
        ),
    )
    rows = rows.with_columns(keep_official(rows["split"], settings))
    return Raw(raw_images(rows), notes)


def read_reports(settings: Dataset, images: pl.DataFrame) -> Raw:
    """Return the report of each study: findings and impression, or the sections found in one text.

    Rows of a study that hold no text share that of the others; a study with different texts is rejected.
    """
    table, path = _table(settings)
    columns = (table.findings, table.impression, table.report)
    texts = list(dict.fromkeys(filter(None, columns)))
    if not texts:
        return Raw(RAW_REPORTS.empty())
    notes: dict[str, int] = {}
    study = table.study or table.image
    frame = read_index(path, list(dict.fromkeys([study, *texts])), filled=[study], notes=notes)
    silent = pl.all_horizontal(pl.col(texts).is_null())
    frame = frame.filter(pl.col(study).is_in(images["study_id"].implode()))
    frame = frame.filter(~silent | silent.all().over(study)).unique(maintain_order=True)
    rows = [
        (row[study], *_sections(*(row[name] if name else None for name in columns)))
        for row in frame.iter_rows(named=True)
    ]
    names = ("study_id", "findings", "impression", "body")
    found = one_report_each(pl.DataFrame(rows, dict.fromkeys(names, pl.String), orient="row"))
    if table.report:
        notes["reports_without_headings"] = found["body"].count()
    return Raw(found, notes)


def _table(settings: Dataset) -> tuple[TableLayout, Path]:
    """Return the columns and the path of the table."""
    if settings.table is None:
        raise InputError("datasets: layout table needs a section `table` with the columns; see docs/data.md")
    return settings.table, Path(settings.root) / settings.index.images


def _column(name: str | None) -> pl.Expr:
    """Return a column, or nulls where the table has none."""
    return pl.lit(None, pl.String) if name is None else pl.col(name)


def _number(column: str) -> pl.Expr:
    """Return the number that a label's value stands for; null for any other text."""
    return pl.col(column).str.to_lowercase().replace(_BOOLEANS).cast(pl.Float64, strict=False)


def _sections(
    findings: str | None, impression: str | None, report: str | None
) -> tuple[str | None, str | None, str | None]:
    """Return findings, impression and body; a report without headers is all body."""
    findings, impression = clean_text(findings), clean_text(impression)
    if findings or impression or not report:
        return findings, impression, None
    # The parser is of MIMIC-CXR, whose lines begin with a space.
    lines = _HEADING.sub(_own_line, report).splitlines()
    found = parse_report("".join(f"\n {line.strip()}" for line in lines) + "\n")
    if found.findings or found.impression:
        return found.findings, found.impression, None
    return None, None, clean_text(report)


def _own_line(heading: re.Match[str]) -> str:
    """Return a heading in capitals on a line of its own; unchanged where it is a word of a sentence."""
    name, start = heading["name"], heading.start()
    first = start == 0 or heading.string[start - 1] in "\r\n"
    after_sentence = name[0].isupper() and heading.string[start - 1] in ".;!?"
    if first or name.isupper() or after_sentence:
        return f"\n{name.upper()}: "
    return heading[0]
