"""The tables of docs/results/ hold no value that is in none of the records that their page names."""

import bisect
import itertools
import json
import math
import re
import statistics
from collections.abc import Iterator
from functools import cache

import pytest

from benchmarks.records import RESULTS
from tests.support.paths import REPO

PAGES = sorted((REPO / "docs/results").glob("*.md"))
RECORD = re.compile(r"`(?:benchmarks/results/)?([\w-]+-\d{4}-\d\d-\d\d)\.json`")
# Values have a point; numbers without one (of items, of steps) also stand in what describes a row.
VALUE = re.compile(r"(?<![\w.])(?<!weight )\d+\.\d+(?![\w.])")
SCALES = (1, 100, 1 / 1000)  # of a share, a percentage; of seconds, milliseconds


def numbers(content: object) -> Iterator[float]:
    """Yield all numbers of a record, and mean and standard deviation of the lists among them."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        plain = [x for x in content if isinstance(x, int | float) and not isinstance(x, bool)]
        if len(plain) == len(content) > 1:
            yield from (statistics.mean(plain), statistics.stdev(plain))
        for part in content:
            yield from numbers(part)
    elif isinstance(content, int | float) and math.isfinite(content):
        yield float(content)


def over_runs(record: dict) -> Iterator[float]:
    """Yield mean and standard deviation over runs (seeds) of each value that all of them have."""
    runs = [dict(paths(run)) for run in record.get("runs", ())]
    for path in set.intersection(*map(set, runs)) if len(runs) > 1 else ():
        values = [run[path] for run in runs]
        yield from (statistics.mean(values), statistics.stdev(values))


def paths(content: object, path: tuple = ()) -> Iterator[tuple[tuple, float]]:
    """Yield (path, number) for all numbers of a record."""
    if isinstance(content, dict):
        content = content.items()
    elif isinstance(content, list):
        content = enumerate(content)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield path, float(content)
        return
    else:
        return
    for name, part in content:
        yield from paths(part, (*path, name))


@cache
def recorded(name: str) -> list[float]:
    """Return the sizes of all numbers of a record, in all scales, in ascending order."""
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    found = {abs(value) for value in itertools.chain(numbers(record), over_runs(record))}
    return sorted(value * scale for value in found for scale in SCALES)


def is_recorded(value: str, names: list[str]) -> bool:
    """Return whether a value is one of the records' to the places that it is written with."""
    places = len(value.partition(".")[2])
    half = 0.5001 * 10**-places
    for name in names:
        found = recorded(name)
        at = bisect.bisect_left(found, float(value) - half)
        if at < len(found) and found[at] <= float(value) + half:
            return True
    return False


def unrecorded(text: str) -> list[str]:
    """Return the values of a page's tables that no record named on it has, each with the start of its row."""
    names = sorted(set(RECORD.findall(text)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [
        f"{value} in {row[:60]}"
        for row in rows
        for value in VALUE.findall(row)
        if not is_recorded(value, names)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_values_of_tables_are_recorded(page):
    text = page.read_text(encoding="utf-8")
    assert RECORD.findall(text), "a page of results names its records"
    assert unrecorded(text) == []


def test_a_value_of_no_record_is_seen():
    page = next(page for page in PAGES if page.stem == "phantom").read_text(encoding="utf-8")
    assert unrecorded(page + "\n| mAP@1 | 1234.5 |\n") == ["1234.5 in | mAP@1 | 1234.5 |"]
