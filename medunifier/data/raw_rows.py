"""Rows that several layouts make in the same way: paths of images, lists of labels, one report for each study."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medunifier.data.index_files import require_file
from medunifier.data.layouts import RAW_REPORTS
from medunifier.data.preparation.rejects import Reason
from medunifier.data.preparation.sections import clean_text
from medunifier.runtime.errors import InputError
from medunifier.storage.tables import LABEL_PREFIX

_TRIED = 200  # images to look for, evenly spaced, in each form of a data set
_TEXTS = ("findings", "impression", "body")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # UTF-16 surrogates


def paths_found(root: Path, table: pl.DataFrame, forms: Sequence[pl.Expr]) -> pl.Series:
    """Return the image's path in each row, in the form in which most images exist; of equals, the first form.

    Data sets are unpacked in different folders and distributed in several formats. A few images are looked for in
    each form; the paths of the best form are then taken for all, so that missing images keep a path to look for.

    Args:
        root: the folder that the paths are relative to.
        table: one row for each image.
        forms: for each form, the path as an expression of the table's columns.
    """
    tried = table.gather_every(max(1, len(table) // _TRIED))
    found = [sum(os.path.isfile(root / path) for path in tried.select(form).to_series()) for form in forms]
    return table.select(forms[int(np.argmax(found))].alias("image_path")).to_series()


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: The file is missing, not JSON in UTF-8, holds half a character, or an object in it has a name
            twice, of which one would be lost.
    """
    require_file(path)
    try:
        content = path.read_text(encoding="utf-8-sig")
        value = json.loads(content, object_pairs_hook=_without_repeats)
        check_characters(content, value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a whole JSON file ({error}). Fetch it again") from error
    return value


def check_characters(content: str, value: Any) -> None:
    """Check that a JSON text, whose value is given, escapes no half of a character: no file or table can hold it.

    Raises:
        UnicodeEncodeError: It does.
    """
    if _HALF_CHARACTER.search(content):  # two halves make a character
        json.dumps(value, ensure_ascii=False).encode()


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def label_name(text: str) -> str:
    """Return the name of the column for a label as distributed: "Nodule/Mass" gives label_nodule_mass."""
    return LABEL_PREFIX + re.sub(r"[^a-z0-9]+", "_", text.strip().lower()).strip("_")


def listed_labels(listed: Sequence[Iterable[str] | None]) -> pl.DataFrame:
    """Return nullable int8 columns `label_*`, one for each label that some image lists.

    Args:
        listed: the labels of each image, as distributed; None where they are unknown.

    Returns:
        1 where an image lists the label, 0 where it does not, null where its labels are unknown.
    """
    names = [None if labels is None else {label_name(label) for label in labels} for labels in listed]
    columns = sorted({name for found in names if found for name in found} - {LABEL_PREFIX})
    place = {name: number for number, name in enumerate(columns)}
    values = np.zeros((len(names), len(columns)), np.int8)
    for row, found in enumerate(names):
        values[row, [place[name] for name in found or () if name in place]] = 1
    unknown = pl.Series([found is None for found in names], dtype=pl.Boolean)
    table = pl.DataFrame(values, schema=dict.fromkeys(columns, pl.Int8))
    return table.with_columns(pl.when(~unknown).then(pl.all()))


def one_report_each(texts: pl.DataFrame) -> pl.DataFrame:
    """Return RAW_REPORTS rows, one for each study, of a table that repeats a study's report for each of its images.

    A study whose rows have different texts is rejected: which of them is about which image is unknown.

    Args:
        texts: columns `study_id` and some of `findings`, `impression` and `body`, in which white space is normalised.
    """
    columns = [texts[name] if name in texts.columns else [None] * len(texts) for name in _TEXTS]
    cleaned = [
        pl.Series(name, map(clean_text, column), pl.String)
        for name, column in zip(_TEXTS, columns, strict=True)
    ]
    texts = pl.DataFrame([texts["study_id"], *cleaned]).unique(maintain_order=True)
    several = pl.col("study_id").is_duplicated()
    detail = pl.format("{} different reports", pl.len().over("study_id"))
    rows = texts.with_columns(
        pl.when(several).then(pl.lit(Reason.CONTRADICTORY_REPORT.value)).alias("reason"),
        pl.when(several).then(detail).alias("detail"),
    )
    return rows.unique("study_id", maintain_order=True, keep="first").select(*RAW_REPORTS.columns)
