"""The YAML reader: as DVC reads, errors that name the file, and no file that makes it hang."""

import time
from pathlib import Path

import pytest

from medunifier.runtime.errors import InputError
from medunifier.runtime.yaml import MAX_DEPTH, MAX_NODES, parse_yaml, read_mapping, read_yaml


def refusal(text: str) -> str:
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "some.yaml")
    assert time.perf_counter() - start < 5
    assert str(caught.value).startswith("some.yaml: ")
    return str(caught.value)


def test_yaml_1_2() -> None:
    assert parse_yaml("[1e-3, no, 0o17, 1_0, null, ~]", "x") == [0.001, "no", 15, 10, None, None]


def test_aliases_within_reason_are_read() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n", "x") == {
        "a": {"x": 1},
        "b": {"x": 1},
        "c": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize("merge", ["", "<<: "], ids=["lists", "merge keys"])
def test_an_alias_bomb_is_refused_at_once(merge: str) -> None:
    lines = ["l0: &l0 {a: 1, b: 2}" if merge else "l0: &l0 [a, b]"]
    for level in range(1, 40):
        nine = ", ".join([f"*l{level - 1}"] * 9)
        lines.append(f"l{level}: &l{level} {{{merge}[{nine}]}}" if merge else f"l{level}: &l{level} [{nine}]")
    assert f"stand for more than {MAX_NODES:,} values" in refusal("\n".join(lines))


def test_an_alias_inside_its_own_anchor_is_refused() -> None:
    assert "*a refers to itself" in refusal("a: &a [1, *a]")


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 5000, "{a: " * 5000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert f"more than {MAX_DEPTH} levels" in refusal(text)


@pytest.mark.parametrize(
    "text", ["a: [", "a: 1\na: 2", "2001-99-99", "1" * 5000, "!!python/object:os.system {}"]
)
def test_what_is_no_yaml_is_refused(text: str) -> None:
    assert "not valid YAML" in refusal(text)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(InputError, match=r"a.yaml: not found; run from the repository root"):
        read_yaml(path)
    with pytest.raises(InputError, match="a folder"):
        read_yaml(tmp_path)
    path.write_bytes(b"name: \xe9\n")
    with pytest.raises(InputError, match=r"a.yaml: not valid YAML in UTF-8"):
        read_yaml(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"a.yaml: expected a mapping at the top"):
        read_mapping(path)
    with path.open("wb") as file:
        file.truncate(2**30)  # sparse: takes no room
    with pytest.raises(InputError, match=r"a.yaml: larger than 16 MiB"):
        read_yaml(path)
