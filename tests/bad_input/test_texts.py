"""Small files that users write or edit: prompts, sentences, resources, dvc.yaml and dvc.lock."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medunifier.data.preparation.label_sentences import Template
from medunifier.evaluation import class_prompts
from medunifier.runtime.dvc_pipeline import Pipeline
from medunifier.synthesis import prompts
from tests.bad_input.faults import WHOLE_FILE, Fault, cut, html, written
from tests.bad_input.outcome import check_outcome
from tests.support.paths import REPO
from workflow.resources import load_resources

pytestmark = pytest.mark.slow

FAMILIES = ("train", "score")
RESOURCES = (
    b"default: {cpus: 1, mem_mb: 100, runtime: 5, gpus: 0, nodes: 1, local: false}\ntrain: {gpus: 1}\n"
)
LOCK = b"schema: '2.0'\nstages:\n  make:\n    cmd: a\n    outs:\n    - {path: out, md5: 0123456789abcdef, size: 1}\n"
PIPELINE = b"stages:\n  make:\n    cmd: a\n    deps: [in]\n    params: [seed]\n    outs: [out]\n"


@dataclass(frozen=True)
class Door:
    """What reads the file `name`, and a whole one."""

    name: str
    whole: bytes
    read: Callable[[Path], Any]


def pipeline(path: Path) -> Any:
    """Read dvc.yaml and dvc.lock; the other one of them and params.yaml are whole."""
    for name, content in (("params.yaml", b"seed: 0\n"), ("dvc.yaml", PIPELINE), ("dvc.lock", LOCK)):
        if name != path.name:
            Path(name).write_bytes(content)
    found = Pipeline()
    return found.stages, found.locked


def shipped(name: str) -> bytes:
    return (REPO / "workflow" / name).read_bytes()


DOORS = {
    "prompts": Door("mine.yaml", shipped("prompts.yaml"), prompts.read_prompts),
    "prompts as text": Door("mine.txt", b"Edema.\n# a comment\nCardiomegaly.\n", prompts.read_prompts),
    "classes": Door("mine.yaml", shipped("zero_shot_prompts.yaml"), class_prompts.read_prompts),
    "sentences": Door("mine.yaml", shipped("label_sentences.yaml"), Template.read),
    "resources": Door("mine.yaml", RESOURCES, lambda path: load_resources(FAMILIES, path, Path("none"))),
    "site": Door(
        "mine.yaml", b"default: {partition: a}\n", lambda path: load_resources(FAMILIES, _common(), path)
    ),
    "dvc.yaml": Door("dvc.yaml", PIPELINE, pipeline),
    "dvc.lock": Door("dvc.lock", LOCK, pipeline),
}


def _common() -> Path:
    Path("common.yaml").write_bytes(RESOURCES)
    return Path("common.yaml")


FAULTS: tuple[Fault, ...] = (
    *WHOLE_FILE,
    cut(0.3),
    *(
        written(content, content.decode()[:30])
        for content in (
            b"[]", b"7", b"null", b"text", b"{}", b"{", b"- {a: 1}", b"a: [b", b"prompts: 5", b"classes: [1]",
            b"stages: 5", b"stages: {make: 5}", b"stages: {make: [5]}", b"stages: {make: {outs: 5}}",
            b"stages: {make: {cmd: 5, deps: 7, outs: [{path: 5}]}}", b"default: 5", b"train: [1]", b"5: 5",
            b"? [a]\n: b", b"a: &a [*a]", b"a: 'b\xc3\xa9\0'", b'a: "\\ud800"', b"a: 1\na: 2", b"!!python/name:os.system x",
            b"extends: 5", b"strips: [{text: x, words: y}]", b"prompts: ['']", b"prompts: [a, a]",
            b"items: test\nclasses: {a: {prompts: [x]}, b: {prompts: []}}", b"version: many\nopening: 5",
        )
    ),
    written(b"[" * 10_000, "deep lists"),
    written(b"- edema\n".decode().encode("utf-16"), "utf-16"),
    written(b"a: \xff", "a byte that is no UTF-8"),
)  # fmt: skip
# What a file may say, or may be without: nothing of it is wrong.
FINE = {
    ("site", "{}"), ("site", "null"), ("site", "[]"), ("site", "missing"), ("site", "empty"), ("dvc.lock", "missing"),
}  # fmt: skip
# Any line of text is a prompt.
OF_TEXT = [fault for fault in FAULTS if fault in (*WHOLE_FILE, FAULTS[-1], FAULTS[-2]) and fault is not html]
CASES = {
    f"{name}: {fault.__name__}": (name, fault)
    for name in DOORS
    for fault in (OF_TEXT if name == "prompts as text" else FAULTS)
}


@pytest.mark.parametrize(("name", "fault"), CASES.values(), ids=CASES)
def test_a_small_file(tmp_path: Path, monkeypatch, name: str, fault: Fault) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medunifier.runtime.dvc_pipeline.time.sleep", lambda seconds: None)
    door = DOORS[name]
    path = Path(door.name)
    path.write_bytes(door.whole)
    whole = door.read(path)
    assert whole
    fault(path)
    fine = (name, fault.__name__) in FINE
    check_outcome(lambda: door.read(path), [door.name], (lambda found: None) if fine else None)
