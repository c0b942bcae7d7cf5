"""docs/presets.md, the table of the choices of `paper`, `lean` and `release`, against the presets themselves."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from medunifier.runtime.yaml import parse_yaml, read_mapping
from tests.support.paths import REPO

PRESETS = ("paper", "lean", "release")
PAGE = (REPO / "docs/presets.md").read_text(encoding="utf-8")
HEADER = "| choice | parameter | the paper | `paper` | `lean` | `release` | why |"
MEANT_TO_DIFFER = {"preset"}  # the name of the preset itself


@cache
def leaves(preset: str) -> dict[str, Any]:
    """Every parameter of a preset by its dotted name."""

    def walk(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{path}{key}.")
            else:
                yield path + key, value

    return dict(walk(dict(read_mapping(REPO / f"workflow/presets/{preset}.yaml"))))


def rows() -> dict[str, list[str]]:
    """Parameter -> the seven cells of its row, of every table with the header."""
    found: dict[str, list[str]] = {}
    for part in PAGE.split(HEADER)[1:]:
        for line in part.strip().splitlines()[1:]:
            if not line.startswith("|"):
                break
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 7, line
            name = cells[1].strip("`")
            assert name not in found, f"{name} is listed twice"
            found[name] = cells
    return found


ROWS = rows()


def test_the_tables_are_found():
    assert len(ROWS) > 30
    assert PAGE.count(HEADER) == 3


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(("column", "preset"), list(enumerate(PRESETS, 3)))
def test_a_cell_says_what_the_preset_has(name: str, column: int, preset: str):
    (shown,) = re.findall(r"^`([^`]+)`$", ROWS[name][column])
    assert parse_yaml(shown, "docs/presets.md") == leaves(preset)[name]


def test_every_key_in_which_two_presets_differ_is_listed():
    names = {name for preset in PRESETS for name in leaves(preset)}
    missing = object()
    different = {
        name for name in names if len({repr(leaves(preset).get(name, missing)) for preset in PRESETS}) > 1
    }
    assert different - MEANT_TO_DIFFER <= set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_the_paper_says_and_where_or_that_it_does_not(name: str):
    says = ROWS[name][2]
    assert re.search(r"§\d|appendix \d|Table \d|Eq\. \d|not stated|no such", says), says
