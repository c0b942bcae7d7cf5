"""params.yaml: every parameter with values that it cannot have, and files that are no parameter files."""

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medunifier.runtime.params import load_params
from medunifier.runtime.yaml import MAX_BYTES, read_yaml
from tests.bad_input.faults import WHOLE_FILE, Fault, cut, written
from tests.bad_input.outcome import check_outcome
from tests.support.paths import REPO

pytestmark = pytest.mark.slow

SHIPPED = REPO / "params.yaml"
RAW: dict[str, Any] = read_yaml(SHIPPED)
ONE_OF_MANY = ("datasets", "variants")  # sections whose entries are alike: the first stands for all


def leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every value that is no mapping with entries."""
    for number, (key, value) in enumerate(tree.items()):
        if path[-1:] and path[-1] in ONE_OF_MANY and number:
            continue
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


LEAVES = list(leaves(RAW))
SECTIONS = list(dict.fromkeys(path[0] for path in LEAVES))
# None of them is allowed anywhere, whatever a parameter's type and limits are.
WRONG: dict[str, Any] = {
    "a mapping": {"no": {"such": 1}},
    "lists in lists": [[["no"]]],
    "a number beyond all limits": -1e30,
    "a control character": "a\u0007\nb\t",
}
VALUES = [f"{what} in {'.'.join(path)}" for what in WRONG for path in LEAVES]


def changed(values: Mapping[tuple[str, ...], Any]) -> str:
    """The shipped parameters with other values, as JSON, which is YAML."""
    tree = json.loads(json.dumps(RAW))
    for (*parents, last), value in values.items():
        place = tree
        for key in parents:
            place = place[key]
        place[last] = value
    return json.dumps(tree)


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("section", SECTIONS)
def test_a_wrong_value_is_refused_at_every_parameter(tmp_path: Path, section: str, what: str) -> None:
    """All parameters of a section at once: each of them is named."""
    paths = [path for path in LEAVES if path[0] == section]
    (tmp_path / "mine.yaml").write_text(changed(dict.fromkeys(paths, WRONG[what])))
    lines = check_outcome(lambda: load_params(tmp_path / "mine.yaml"), ["mine.yaml"]).splitlines()
    for path in paths:
        name = ".".join(path)
        assert any(line.strip().startswith(name) for line in lines), f"{name} is not named"


FILES: tuple[Fault, ...] = (
    *WHOLE_FILE,
    *map(cut, (0.01, 0.2, 0.5, 0.8, 0.97)),
    written(SHIPPED.read_bytes() + b"\xff", "a byte that is no UTF-8"),
    written(SHIPPED.read_text(encoding="utf-8").encode("utf-16"), "utf-16"),
    written(SHIPPED.read_bytes() + b"\nseed: 1\n", "a key twice"),
    written(SHIPPED.read_bytes() + b"\nextra: 1\n", "an unknown key"),
    written(SHIPPED.read_bytes() + b"\n'': 1\n", "an empty key"),
    written(SHIPPED.read_bytes() + b"\n? [1, 2]\n: 1\n", "a list as key"),
    written(SHIPPED.read_bytes() + b"\n1: 1\n", "a number as key"),
    written(SHIPPED.read_bytes() + b"\n---\nseed: 0\n", "two documents"),
    written(SHIPPED.read_bytes() + b"\n\tseed: 0\n", "a tab"),
    written(SHIPPED.read_bytes() + b"\nx: *nowhere\n", "an alias to nothing"),
    written(SHIPPED.read_bytes() + b"\nx: &x [*x]\n", "an alias to itself"),
    written(b"preset: !!python/object/apply:os.system ['touch ran']\n", "a Python object"),
    written(b"preset: !unknown x\n", "an unknown tag"),
    written(b"preset: \"\\ud800\"\n", "half of a character"),
    written(b"a: &a [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n".encode() for a, b in pairwise("abcdefghij")
    ), "an alias bomb"),
    written(b"[" * 100_000, "deep lists"),
    written(b"{a: " * 5_000, "deep mappings"),
    written(b"a: " + b"9" * 100_000, "a number of 100 000 digits"),
    written(b"#" * (MAX_BYTES + 1), "a file of 16 MiB"),
    written(b"- 1\n", "a list"), written(b"42\n", "a number"), written(b"null\n", "nothing"),
    written(b"preset: 2001-99-99\n", "an impossible date"), written(b"preset: 2001-01-01\n", "a date"),
)  # fmt: skip


@pytest.mark.parametrize("fault", FILES, ids=lambda fault: fault.__name__)
def test_a_file_that_holds_no_parameters(tmp_path: Path, monkeypatch, fault: Fault) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("mine.yaml")
    path.write_bytes(SHIPPED.read_bytes())
    fault(path)
    check_outcome(lambda: load_params(path), ["mine.yaml"])
    assert not Path("ran").exists(), "code in it was run"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(path=st.sampled_from(LEAVES), value=anything)
def test_any_value_anywhere_is_read_or_refused_by_name(
    tmp_path: Path, path: tuple[str, ...], value: Any
) -> None:
    (tmp_path / "mine.yaml").write_text(changed({path: value}))

    def is_kept(found: Any) -> None:
        place = found.model_dump(mode="json")
        for key in path:
            place = place[key]
        assert place == value

    check_outcome(lambda: load_params(tmp_path / "mine.yaml"), ["mine.yaml"], is_kept)
