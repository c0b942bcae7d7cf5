"""Index files of every layout, spoiled: `prepare` refuses by name, or what it keeps is as from the whole file."""

import gzip
import re
import shutil
from functools import cache
from pathlib import Path

import polars as pl
import pytest

from tests.bad_input.data_sets import COPIES
from tests.bad_input.faults import WHOLE_FILE, Fault, cut, flip, named, replace
from tests.bad_input.outcome import check_outcome
from tests.stages.test_prepare import SPLITS, run_settings

pytestmark = pytest.mark.slow


def text_fault(change, name: str) -> Fault:
    """A fault of a text file; of one that is compressed, inside the compression."""

    def fault(path: Path) -> None:
        packed = path.suffix == ".gz"
        text = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
        spoiled = change(text)
        assert spoiled != text
        replace(path, gzip.compress(spoiled) if packed else spoiled)

    return named(fault, name)


def lines(text: bytes) -> list[bytes]:
    return text.splitlines(keepends=True)


def last_line_cut(text: bytes) -> bytes:
    last = lines(text)[-1]
    return text[: len(text) - len(last) + len(last) // 2]


def last_line_with(more: bytes):
    return lambda text: b"".join([*lines(text)[:-1], lines(text)[-1].rstrip(b"\r\n") + more + b"\n"])


# What a disk, a download, an editor or a table program makes of a text file, whatever it holds.
TEXT = (
    text_fault(lambda text: text.decode().encode("utf-16"), "utf-16"),
    text_fault(lambda text: text + b"\xff\xfe\n", "bytes that are no UTF-8"),
    text_fault(lambda text: text[:-30] + b"\0" * 20 + text[-10:], "a block of zeros"),
    text_fault(last_line_cut, "the last line cut"),
    text_fault(last_line_with(b'"'), "a quote that is not closed"),
    text_fault(last_line_with(b"\x1f\x07"), "control characters"),
    text_fault(lambda text: lines(text)[0], "the first line alone"),
    text_fault(lambda text: b"".join(lines(text)[1:]), "without its first line"),
    text_fault(lambda text: text + text, "everything twice"),
    text_fault(lambda text: text + lines(text)[-1], "the last line twice"),
    text_fault(lambda text: text + b"../../../etc/passwd\n", "a line that leaves the root"),
    text_fault(lambda text: text + b"x" * 1_000_000 + b"\n", "a line of a million characters"),
    text_fault(lambda text: text + b"," * 400 + b"\n", "a row of four hundred empty fields"),
)
LINES = [fault for fault in TEXT if fault.__name__ in ("the first line alone", "without its first line")]
ONE_LINE = [
    file for copy in COPIES.values() for file in copy.files if file.startswith(("metadata/", "grounded"))
]
# The others are of another kind: tables in binary form, and archives.
BINARY = (".parquet", ".tgz")


def cases() -> list[tuple[str, str, Fault]]:
    found: list[tuple[str, str, Fault]] = []
    for name, copy in COPIES.items():
        for file in copy.files:
            faults = [*WHOLE_FILE, cut(0.5)]
            if Path(file).suffix in (*BINARY, ".gz"):
                faults += [flip(1), flip(2)]  # of plain text, a flipped bit may be another text
            if Path(file).suffix not in BINARY:
                faults += [fault for fault in TEXT if fault not in LINES or file not in ONE_LINE]
            found += [(name, file, fault) for fault in faults]
    return found


CASES = {f"{name}: {file}: {fault.__name__}": (name, file, fault) for name, file, fault in cases()}


def as_expected(row: dict, expected: dict | None, notes: dict) -> bool:
    """Whether a kept row has the values of the whole file, or lacks labels where the summary counts it."""
    if expected is None:
        return False
    missing = notes.get("images_without_labels")
    found = {
        key: re.sub('["\x00-\x1f]', "", value) if isinstance(value, str) else value
        for key, value in row.items()
    }
    return all(
        found[key] == value or (missing and key.startswith("label_") and found[key] is None)
        for key, value in expected.items()
    )


def rows(tables: dict[str, pl.DataFrame]) -> dict[str, dict]:
    """The kept images by id."""
    kept = (row for split in SPLITS for row in tables[split].to_dicts())
    return {row["image_id"]: row for row in kept}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Name of a copy -> its folder, its settings and the rows that are kept of it undisturbed."""

    @cache
    def build(name: str):
        folder = tmp_path_factory.mktemp(name)
        settings = COPIES[name].build(folder / "copy")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            kept = rows(run_settings(settings)[0])
        assert len(kept) > 4
        return folder / "copy", settings, kept

    return build


@pytest.mark.parametrize(("name", "file", "fault"), CASES.values(), ids=CASES)
def test_a_spoiled_index_file(tmp_path: Path, monkeypatch, whole, name: str, file: str, fault: Fault) -> None:
    source, settings, expected = whole(name)
    shutil.copytree(source, tmp_path / "copy")
    moved = {
        key: str(tmp_path / "copy" / Path(value).relative_to(source))
        for key, value in (("root", settings.root), ("reports", settings.reports))
        if value
    }
    monkeypatch.chdir(tmp_path)
    fault(tmp_path / "copy" / file)

    def as_before(found) -> None:
        tables, summary = found  # `run_settings` has added up the counts
        for image, row in rows(tables).items():
            assert as_expected(row, expected.get(image), summary["notes"]), (
                f"{row} instead of {expected.get(image)}"
            )

    check_outcome(
        lambda: run_settings(settings.replace(**moved)), [Path(file).name, "datasets.fake"], as_before
    )
