"""Read the index files of a data set; errors name the file, the line, the column and the expected content.

The rules for every layout: how a table or a list is read, which words stand for a missing value, what an id is, when
rows contradict each other, and when two files fit together.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import polars as pl

from medunifier.data.csv_files import column_names, first_line, opened, read_text_columns
from medunifier.runtime.errors import InputError
from medunifier.storage.tables import LABEL_PREFIX

# Alone in a field, in any case, these stand for a missing value: what pandas, R and Excel write for one.
MISSING_WORDS = frozenset({"nan", "none", "n/a", "na", "null", "<na>", "#n/a"})
_CUT_OFF = r"^\d(?:[.,]\d+)?[eE]\+\d+$|^\d[.,]\d+[eE]\d+$"  # 2.16840111336696E+37, of many patients
_PACKED = (".gz", ".zip")
_TABLES = (".csv", ".gz", ".parquet", ".txt", ".zip")


def read_index(
    path: Path,
    columns: Sequence[str],
    filled: Iterable[str] = (),
    every: bool = False,
    *,
    ids: Iterable[str] = (),
    notes: dict[str, int] | None = None,
) -> pl.DataFrame:
    """Read a CSV file (plain, gzipped or zipped) or a Parquet file as text columns, without spaces around values.

    Blank fields and the words in MISSING_WORDS are null.

    Args:
        path: the file.
        columns: names of the columns to keep.
        filled: names of the columns that may not be blank.
        every: keep all other columns, too.
        ids: names of the columns that hold ids, which `whole_id` normalises.
        notes: takes the number of MISSING_WORDS of each column, as `missing_words_COLUMN`, where there are any.

    Raises:
        InputError: The file is missing, broken or empty, a row has another number of fields than the header, a column
            is missing or not UTF-8, a value in `filled` is blank, or an id has lost digits.
    """
    require_file(path)
    if path.suffix.lower() == ".parquet":
        frame = _read_parquet(path, columns, every)
    else:
        frame = read_text_columns(path, columns, every)
    if frame.is_empty():
        raise InputError(f"{path}: the file has a header but no rows. Fetch it again")
    frame = frame.with_columns(pl.all().str.strip_chars().replace("", None))
    missing = frame.select(pl.all().str.to_lowercase().is_in(MISSING_WORDS))
    for column in frame.columns:
        if (count := int(missing[column].sum())) and notes is not None:
            name = "missing_words_" + re.sub(r"\W+", "_", column.lower()).strip("_")
            notes[name] = notes.get(name, 0) + count
    frame = frame.with_columns(
        pl.when(~missing[column]).then(column).alias(column)
        for column in frame.columns
        if missing[column].any()
    )
    for column in filled:
        if blank := frame[column].null_count():
            raise InputError(
                f"{path}: column '{column}' is blank in {blank} rows{_first(path, column, _is_missing)}; every row "
                "needs a value. Fetch the file again, or fix these rows"
            )
    ids = list(ids)
    for column in ids:
        expected = "all digits of an id; a table program cut these off: save the column as text"
        check_values(frame, column, ~pl.col(column).str.contains(_CUT_OFF), expected, path)
    return frame.with_columns(whole_id(column) for column in ids)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return number and text of each line of a text list that is not blank, without spaces around it.

    Raises:
        InputError: The list is missing, empty or not UTF-8; a byte-order mark is skipped.
    """
    require_file(path)
    with opened(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not text in UTF-8; save the list in UTF-8") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InputError(f"{path}: the list is empty. Fetch it again")
    return found


def require_file(path: Path) -> None:
    """Check that an index file is there.

    Raises:
        InputError: It is not; the message names what lies there instead.
    """
    if path.is_file():
        return
    kind = "not a file" if path.exists() else "no such index file"
    raise InputError(
        f"{path}: {kind}; check `root` and `index` of the data set in params.yaml{what_is_there(path)}"
    )


def what_is_there(path: Path) -> str:
    """Return, in brackets, what lies where an index file is missing; nothing if there is nothing to tell."""
    if not path.parent.is_dir():
        return ""
    twins = [path.with_name(path.name + suffix) for suffix in _PACKED]
    twins += [path.with_suffix("")] if path.suffix in _PACKED else []
    hints = [f"{twin.name} is there: name it under `index`" for twin in twins if twin.is_file()]
    entries = sorted(path.parent.iterdir())
    hints += [
        f"it lies in {entry}: is that the `root`?" for entry in entries if (entry / path.name).is_file()
    ][:1]
    tables = [entry.name for entry in entries if entry.suffix.lower() in _TABLES]
    hints += [f"the folder has {some(tables)}"] if tables and not hints else []
    return f" ({'; '.join(hints)})" if hints else ""


def whole_id(column: str | pl.Expr) -> pl.Expr:
    """Return an id without spaces around it, and without the `.0` that a table program adds to whole numbers."""
    expression = pl.col(column) if isinstance(column, str) else column
    return expression.str.strip_chars().str.replace(r"^(\d+)\.0+$", "${1}")


def alike_ids(ids: pl.Series) -> list[list[str]]:
    """Return groups of different ids that may be the same: they differ in case, a leading `p` or leading zeros only."""
    unique = pl.DataFrame({"id": ids.unique().drop_nulls().sort()})
    key = pl.col("id").str.to_lowercase().str.replace(r"^(?:patient|p)[ _-]?(\d)", "${1}")
    key = key.str.replace(r"^0+(\d)", "${1}")
    groups = (
        unique.group_by(key.alias("key"), maintain_order=True).agg("id").filter(pl.col("id").list.len() > 1)
    )
    return groups["id"].to_list()


def one_row_each(frame: pl.DataFrame, key: str, path: Path) -> pl.DataFrame:
    """Return `frame` without repeated rows.

    Raises:
        InputError: Rows share `key` but differ in another column; `path` names the file in the message.
    """
    frame = frame.unique(maintain_order=True)
    if twice := frame.filter(pl.col(key).is_duplicated())[key].unique().sort().to_list():
        differing = contradictions(frame.filter(pl.col(key) == twice[0]), key)
        raise InputError(
            f"{path}: {len(twice)} values of '{key}' have rows that contradict each other: {some(twice)}; "
            f"keep one row for each ({twice[0]}: {differing['contradiction'][0]})"
        )
    return frame


def contradictions(frame: pl.DataFrame, key: str | Sequence[str]) -> pl.DataFrame:
    """Return the values of `key` whose rows differ in another column: the columns of `key`, and `contradiction`.

    `contradiction` says how, for example "label_edema is 0, 1". A blank and a value differ, too.
    """
    keys = [key] if isinstance(key, str) else list(key)
    others = [name for name in frame.columns if name not in keys]
    twice = frame.filter(pl.struct(keys).is_duplicated())
    values = [pl.col(name).cast(pl.String).fill_null("blank").unique().sort().alias(name) for name in others]
    words = [
        pl.when(pl.col(name).list.len() > 1).then(
            pl.format(
                f"{name} is {{}}", pl.col(name).list.eval(pl.element().str.slice(0, 60)).list.join(", ")
            )
        )
        for name in others
    ]
    text = pl.concat_str(words, separator="; ", ignore_nulls=True) if words else pl.lit("")
    grouped = twice.group_by(keys, maintain_order=True).agg(values)
    return grouped.select(*keys, text.alias("contradiction")).filter(pl.col("contradiction") != "")


def check_match(rows: pl.DataFrame, other: pl.DataFrame, key: str, files: tuple[Path, Path]) -> list[str]:
    """Return warnings where two tables that are joined by `key` match in part.

    Args:
        rows: the table that lists the images.
        other: the table to join: labels, splits, checksums, texts.
        key: the column in both.
        files: the files of both, for messages.

    Raises:
        InputError: No value of `key` is in both.
    """
    ours, theirs = (table.select(key).drop_nulls().unique() for table in (rows, other))
    if ours.is_empty() or theirs.is_empty():
        return []
    lost = ours.join(theirs, on=key, how="anti")[key].sort().to_list()
    excess = theirs.join(ours, on=key, how="anti")[key].sort().to_list()
    if len(lost) == len(ours):
        raise InputError(
            f"{files[1]}: none of its {len(theirs)} values of '{key}' ({some(excess, 2)}) is among the {len(ours)} of "
            f"{files[0]} ({some(lost, 2)}); name files of one data set, with ids written alike"
        )
    warnings = []
    if lost:
        warnings.append(
            f"{files[1]}: {len(lost)} of {len(ours)} values of '{key}' have no row: {some(lost, 3)}"
        )
    if excess:
        warnings.append(
            f"{files[1]}: {len(excess)} of {len(theirs)} values of '{key}' are not in {files[0].name}: "
            f"{some(excess, 3)}"
        )
    return warnings


def check_values(
    frame: pl.DataFrame, column: str, right: pl.Expr | pl.Series, expected: str, path: Path
) -> None:
    """Check the values of a column; blank ones pass.

    Args:
        frame: rows of the file.
        column: the column's name, in `frame` and in the file.
        right: whether a row's value is right.
        expected: which values are, in words.
        path: the file.

    Raises:
        InputError: A value is wrong; the message has the first one, its line and the count.
    """
    wrong = frame.filter(pl.col(column).is_not_null() & ~right.fill_null(False))[column]
    if len(wrong):
        first = _first(path, column, lambda value: value == wrong[0])
        raise InputError(
            f"{path}: {column} is {wrong[0]!r}{first}; {len(wrong)} rows are not as expected: {expected}"
        )


def label_columns(frame: pl.DataFrame, names: Iterable[str], path: Path) -> pl.DataFrame:
    """Return `frame` with the columns `names` ("Lung Lesion") as nullable int8 labels (`label_lung_lesion`).

    Raises:
        InputError: A value is not 1, 0, -1 (uncertain) or blank.
    """
    for name in names:
        number = pl.col(name).cast(pl.Float64, strict=False)
        check_values(frame, name, number.is_in([1.0, 0.0, -1.0]), "1, 0, -1 or blank", path)
        label = LABEL_PREFIX + name.strip().lower().replace(" ", "_")
        frame = frame.with_columns(number.cast(pl.Int8).alias(label)).drop(name)
    return frame


def some(values: Sequence[str], most: int = 5) -> str:
    """Join the first few of `values`, for a message."""
    return ", ".join(values[:most]) + (", ..." if len(values) > most else "")


def index_columns(path: Path) -> list[str]:
    """Return the names of the columns of an index file."""
    require_file(path)
    return list(pl.read_parquet_schema(path)) if path.suffix.lower() == ".parquet" else column_names(path)


def _read_parquet(path: Path, columns: Sequence[str], every: bool) -> pl.DataFrame:
    """Return columns of a Parquet file as text."""
    try:
        lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        found = lazy.collect_schema().names()
        if missing := [column for column in columns if column not in found]:
            raise InputError(f"{path}: no column {', '.join(map(repr, missing))}; found {', '.join(found)}")
        return (lazy if every else lazy.select(columns)).with_columns(pl.all().cast(pl.String)).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from error


def _first(path: Path, column: str, matches: Callable[[str], bool]) -> str:
    """Return ", first in line N" for the first value that `matches`; nothing for a file without lines."""
    line = None if path.suffix.lower() == ".parquet" else first_line(path, column, matches)
    return f", first in line {line}" if line else ""


def _is_missing(value: str) -> bool:
    return not value or value.lower() in MISSING_WORDS
