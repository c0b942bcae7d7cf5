"""Read CSV files as text: rows of another number of fields are reported, whatever columns are asked for.

Files may be plain, gzipped or the one CSV file of a zip archive, recognised by content; lines may end in LF, CRLF or CR;
a byte-order mark and blank lines are skipped; bytes that are not UTF-8 matter only in the columns asked for.
"""

import csv
import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import polars as pl

from medunifier.runtime.errors import InputError

_BLOCK = 1 << 24  # bytes; a row must fit
_SHOWN = 60  # characters of a row in a message
_GZIP, _ZIP, _UTF_16 = b"\x1f\x8b", b"PK\3\4", (b"\xff\xfe", b"\xfe\xff")
_BROKEN = (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
_LONGEST_FIELD = 1 << 30


def read_text_columns(path: Path, columns: Sequence[str], every: bool = False) -> pl.DataFrame:
    """Return columns of a CSV file as text, unchanged; an empty field is an empty text.

    Args:
        path: the file.
        columns: names of the columns to keep, as the header has them without spaces around.
        every: keep all other columns, too.

    Raises:
        InputError: The file cannot be read, a column is missing or there twice, a row has another number of fields
            than the header, or a column asked for is not UTF-8.
    """
    # Imported here: most stages read no CSV file.
    import pyarrow as pa
    from pyarrow import csv as arrow

    names, before = _header(path)
    wanted = _positions(path, names, columns, every)
    strange: list[int] = []

    def count(row: arrow.InvalidRow) -> str:
        if row.actual_columns > 1 or row.text.strip():
            strange.append(row.actual_columns)
        return "skip"

    keys = [str(position) for position in wanted.values()]
    with opened(path) as file:
        try:
            table = arrow.read_csv(
                file,
                arrow.ReadOptions(
                    column_names=[str(position) for position in range(len(names))],
                    skip_rows_after_names=before,
                    block_size=_BLOCK,
                ),
                arrow.ParseOptions(newlines_in_values=True, invalid_row_handler=count),
                arrow.ConvertOptions(include_columns=keys, column_types=dict.fromkeys(keys, pa.string())),
            )
        except pa.ArrowInvalid as error:
            if sum(1 for _ in numbered_rows(path)) == before:  # a header without even a line end
                return pl.DataFrame(schema=dict.fromkeys(wanted, pl.String))
            raise InputError(_explain(path, names, wanted) or f"{path}: not a CSV file: {error}") from None
    if strange:
        raise InputError(
            _explain(path, names, wanted) or f"{path}: {len(strange)} rows have not {len(names)} fields"
        )
    frame = pl.DataFrame(pl.from_arrow(table))
    return frame.rename(dict(zip(keys, wanted, strict=True)))


def column_names(path: Path) -> list[str]:
    """Return the names in the header of a CSV file, without spaces around them."""
    return _header(path)[0]


def numbered_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line in which each row begins, counted as in an editor, and the row's fields; the header is a row.

    A byte that is not UTF-8 becomes a lone surrogate. Slow: for the header and for messages.
    """
    limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        with opened(path) as file:
            text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
            reader, line = csv.reader(text), 1
            for fields in reader:
                yield line, fields
                line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)


def first_line(path: Path, column: str, matches: Callable[[str], bool]) -> int | None:
    """Return the first line (see `numbered_rows`) whose field in `column`, without spaces around, `matches`."""
    rows = numbered_rows(path)
    header = next(fields for _, fields in rows if any(field.strip() for field in fields))
    position = [name.strip() for name in header].index(column)
    # A row of nothing but commas is a row; a blank line is none.
    full = ((line, fields) for line, fields in rows if len(fields) > 1 or any(map(str.strip, fields)))
    return next((line for line, fields in full if matches(fields[position].strip())), None)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, uncompressed if it is gzipped or a zip archive of one CSV file.

    Raises:
        InputError: The file is empty, damaged, in UTF-16, or an archive of several files.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(0)
            if not start:
                raise InputError(
                    f"{path}: the file is empty; a header and rows were expected. Fetch it again"
                )
            if start.startswith(_UTF_16):
                raise InputError(f"{path}: the file is in UTF-16; save it as CSV in UTF-8")
            if start.startswith(_GZIP):
                with gzip.open(file) as unpacked:
                    yield cast(IO[bytes], unpacked)
            elif start == _ZIP:
                with zipfile.ZipFile(file) as archive, archive.open(_only_member(path, archive)) as unpacked:
                    yield unpacked
            else:
                yield file
    except _BROKEN as error:
        raise InputError(
            f"{path}: not a readable file, it is cut off or damaged ({error}). Fetch it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: not a readable file: {error.strerror or error}") from error


def _only_member(path: Path, archive: zipfile.ZipFile) -> str:
    """Return the name of the one CSV file in an archive; what macOS adds does not count."""
    names = [
        name
        for name in archive.namelist()
        if name.lower().endswith((".csv", ".txt"))
        and not name.startswith("__MACOSX/")
        and not os.path.basename(name).startswith("._")
    ]
    if len(names) != 1:
        raise InputError(
            f"{path}: a zip archive of {len(names)} CSV files; unpack it and name the file under `index`"
        )
    return names[0]


def _header(path: Path) -> tuple[list[str], int]:
    """Return the names in the header, and how many rows there are up to and with it; blank rows come before."""
    for number, (_, fields) in enumerate(numbered_rows(path), 1):
        if any(field.strip() for field in fields):
            return [_printable(field.strip()) for field in fields], number
    raise InputError(f"{path}: the file is empty; a header and rows were expected. Fetch it again")


def _printable(text: str) -> str:
    """Return a text without lone surrogates and control characters."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def _positions(path: Path, names: list[str], columns: Sequence[str], every: bool) -> dict[str, int]:
    """Map the columns asked for to their positions."""
    if missing := [column for column in columns if column not in names]:
        hint = ""
        if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
            hint = " Fields must be separated by commas."
        raise InputError(
            f"{path}: no column {', '.join(map(repr, missing))}; found {', '.join(names)}.{hint} Is it the file that "
            "`index` of the data set in params.yaml should name?"
        )
    wanted = [*columns, *(name for name in names if name and name not in columns)] if every else columns
    if twice := [column for column in dict.fromkeys(wanted) if names.count(column) > 1]:
        raise InputError(f"{path}: column {', '.join(map(repr, twice))} is there twice; rename or remove one")
    return {column: names.index(column) for column in wanted}


def _explain(path: Path, names: list[str], wanted: dict[str, int]) -> str | None:
    """Return what is wrong with a file that cannot be read, with the first line and the count; None if unknown."""
    strange: list[tuple[int, list[str]]] = []
    not_text: dict[str, list[int]] = {}
    try:
        for line, fields in numbered_rows(path):
            if not any(field.strip() for field in fields) and len(fields) <= 1:
                continue
            if len(fields) != len(names):
                strange.append((line, fields))
            for column, position in wanted.items():
                if position < len(fields) and any(
                    "\udc80" <= letter <= "\udcff" for letter in fields[position]
                ):
                    not_text.setdefault(column, []).append(line)
    except csv.Error as error:
        return f"{path}: not a CSV file: {error}"
    if strange:
        line, fields = strange[0]
        text = ",".join(fields)
        quote = " Its text goes on over several lines: is a quotation mark missing?" if "\n" in text else ""
        return (
            f"{path}, line {line}: {len(fields)} fields, but the header has {len(names)} "
            f"({_printable(text[:_SHOWN])!r}); {len(strange)} rows of the file are like that.{quote} Quote values that hold a comma, or fetch the file again"
        )
    if not_text:
        column, lines = next(iter(not_text.items()))
        return (
            f"{path}, line {lines[0]}: column '{column}' is not UTF-8, in {len(lines)} rows of the file; "
            "save the file as CSV in UTF-8"
        )
    return None
