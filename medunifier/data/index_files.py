"""Read the index files of a data set; errors name the file, the column and the expected content."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from medunifier.runtime.errors import InputError
from medunifier.storage.tables import LABEL_PREFIX


def read_index(
    path: Path, columns: Sequence[str], filled: Iterable[str] = (), every: bool = False
) -> pl.DataFrame:
    """Read a CSV file (plain or gzipped) as text columns; strip spaces from names and values, blank is null.

    Args:
        path: the file.
        columns: names of the columns to keep.
        filled: names of the columns that may not be blank.
        every: keep all other columns, too.

    Raises:
        InputError: The file is missing, broken or empty, a column is missing, or a value in `filled` is blank.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such index file; check `root` and `index` of the data set in params.yaml"
        )
    try:
        lazy = pl.scan_csv(path, infer_schema=False)
        lazy = lazy.rename({name: name.strip() for name in lazy.collect_schema().names()})
        found = lazy.collect_schema().names()
        if missing := [column for column in columns if column not in found]:
            raise InputError(
                f"{path}: no column {', '.join(map(repr, missing))}; found {', '.join(found)}. Is it the file that "
                "`index` of the data set in params.yaml should name?"
            )
        frame = (lazy if every else lazy.select(columns)).collect()
    except pl.exceptions.NoDataError:
        raise InputError(
            f"{path}: the file is empty; a header and rows were expected. Fetch it again"
        ) from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not a readable CSV file in UTF-8: {str(error).splitlines()[0]}") from error
    if frame.is_empty():
        raise InputError(f"{path}: the file has a header but no rows. Fetch it again")
    frame = frame.with_columns(pl.all().str.strip_chars().replace("", None))
    for column in filled:
        if blank := frame[column].null_count():
            # Counted as in an editor: the header is line 1.
            first = frame[column].is_null().to_list().index(True) + 2
            raise InputError(
                f"{path}: column '{column}' is blank in {blank} rows, first in row {first}; every row needs a value. "
                "Fetch the file again, or fix these rows"
            )
    return frame


def one_row_each(frame: pl.DataFrame, key: str, path: Path) -> pl.DataFrame:
    """Return `frame` without repeated rows.

    Raises:
        InputError: Rows share `key` but differ in another column; `path` names the file in the message.
    """
    frame = frame.unique(maintain_order=True)
    if twice := frame.filter(pl.col(key).is_duplicated())[key].unique().sort().to_list():
        raise InputError(
            f"{path}: {len(twice)} values of '{key}' have rows that contradict each other: {some(twice)}; "
            "keep one row for each"
        )
    return frame


def label_columns(frame: pl.DataFrame, names: Iterable[str], path: Path) -> pl.DataFrame:
    """Return `frame` with the columns `names` ("Lung Lesion") as nullable int8 labels (`label_lung_lesion`).

    Raises:
        InputError: A value is not 1, 0, -1 (uncertain) or blank.
    """
    for name in names:
        number = pl.col(name).cast(pl.Float64, strict=False)
        wrong = frame.filter(pl.col(name).is_not_null() & ~number.is_in([1.0, 0.0, -1.0]).fill_null(False))
        if len(wrong):
            raise InputError(f"{path}: label '{name}' is {wrong[name][0]!r}; expected 1, 0, -1 or blank")
        label = LABEL_PREFIX + name.strip().lower().replace(" ", "_")
        frame = frame.with_columns(number.cast(pl.Int8).alias(label)).drop(name)
    return frame


def find_files(folder: Path, suffix: str) -> dict[str, Path]:
    """Map file names without `suffix` to paths, for all files below `folder`; of equal names, the first path."""
    paths = (
        Path(parent) / name for parent, _, names in os.walk(folder) for name in names if name.endswith(suffix)
    )
    return {path.name.removesuffix(suffix): path for path in sorted(paths, reverse=True)}


def some(values: Sequence[str], most: int = 5) -> str:
    """Join the first few of `values`, for a message."""
    return ", ".join(values[:most]) + (", ..." if len(values) > most else "")
