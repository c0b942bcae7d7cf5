"""Models, encoders, stores, tables and metrics, spoiled: what reads them names the folder and what to do."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.bad_input.faults import WHOLE_FILE, Fault, cut, dangling, missing, replace, written
from tests.bad_input.outcome import check_outcome
from tests.bad_input.stored_project import DOORS, Door, build

pytestmark = pytest.mark.slow


class Runs:
    """An object whose pickle makes a folder when it is read."""

    def __reduce__(self):
        import os

        return os.mkdir, ("ran",)


def pickle(path: Path) -> None:
    import pickle as library

    replace(path, library.dumps(Runs()))


HEADER_OF_A_TERABYTE = written((2**40).to_bytes(8, "little") + b"{}", "a header of a terabyte")
FAULTS: tuple[Fault, ...] = (*WHOLE_FILE, cut(0.02), cut(0.5), cut(0.95), pickle, HEADER_OF_A_TERABYTE)
JSON: tuple[Fault, ...] = (
    *(written(text, text.decode()) for text in (b"[]", b"7", b"null", b'"text"', b"{}", b'{"a": NaN}')),
    written(b"[" * 200_000, "deep lists"),
    written(b'{"a":' * 200_000, "deep objects"),
    written(b'{"a": "\\ud800"}', "half of a character"),
    written("{}".encode("utf-16"), "utf-16"),
)
VALUES: dict[str, Any] = {
    "null": None, "text": "many", "list": [1], "mapping": {"a": 1}, "zero": 0, "negative": -3, "half": 1.5,
    "terabyte": 10**12, "nan": float("nan"), "true": True,
}  # fmt: skip


def files() -> dict[str, tuple[Door, Path, Fault]]:
    found = {}
    for name, door in DOORS.items():
        for file in door.files:
            faults = [*FAULTS, *(JSON if file.suffix == ".json" else ())]
            found |= {f"{name}: {file.name}: {fault.__name__}": (door, file, fault) for fault in faults}
    return found


FILES = files()


# Values that nothing of ours reads, or that are compared with the model's own record when both are loaded.
NOT_READ = {
    "model": ("architectures", "dtype", "transformers_version"),
    "priors": ("dropout", "top_blocks"),
    "features": ("model", "revision", "skip_last_blocks", "checksum", "sha256"),
    "frozen encoder": (
        "architectures",
        "layer_norm_eps",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
    ),
    "BERT checkpoint": (
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
    ),
}
CONFIGURATIONS = {f"{name}: {value}": (name, value) for name in NOT_READ for value in VALUES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("whole") / "project"
    build(folder)
    yield folder
    import os

    os.chdir(before)


@pytest.fixture
def spoilt(whole: Path, tmp_path: Path, monkeypatch):
    """The project in a folder of the test's own: links, of which a test replaces one by a file."""

    def take(file: Path) -> Path:
        shutil.copytree(whole, tmp_path / "project", copy_function=_link)
        monkeypatch.chdir(tmp_path / "project")
        file.unlink()
        shutil.copy(whole / file, file)
        return file

    return take


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


@pytest.mark.parametrize(("door", "file", "fault"), FILES.values(), ids=FILES)
def test_a_spoiled_file(spoilt, door: Door, file: Path, fault: Fault) -> None:
    fault(spoilt(file))
    optional = (fault in (missing, dangling) and file in door.optional) or fault.__name__ in door.fine
    check_outcome(door.read, [str(file.parent), file.name], (lambda found: None) if optional else None)
    assert not Path("ran").exists(), "code in it was run"


@pytest.mark.parametrize(("name", "value"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_wrong_value_of_each_key_of_a_configuration(spoilt, name: str, value: str) -> None:
    """Refused, unless it is of the same kind as the right one."""
    door = DOORS[name]
    assert door.configuration is not None
    path = spoilt(door.configuration)
    whole = json.loads(path.read_text())
    assert set(NOT_READ[name]) <= set(whole)
    for key, before in whole.items():
        path.write_text(json.dumps(whole | {key: VALUES[value]}))
        fine = key in NOT_READ[name] or is_of_its_kind(VALUES[value], before)
        places = [str(path.parent), path.name, "vision.model"]
        check_outcome(door.read, places, (lambda found: None) if fine else None)


def is_of_its_kind(value: Any, before: Any) -> bool:
    if isinstance(before, bool):
        return isinstance(value, bool)
    if isinstance(before, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    return value is None or isinstance(value, dict)
