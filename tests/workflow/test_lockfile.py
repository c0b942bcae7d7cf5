"""dvc.lock: ordered, and whole after a kill."""

import random
from pathlib import Path

import dvc.dvcfile
import pytest
from dvc.dvcfile import Lockfile
from dvc.repo import Repo
from ruamel.yaml import YAML

from workflow import lockfile

ENTRY = """\
    cmd: python stage.py {name} with a command that is so long that it goes on
      in a second line
    deps:
    - path: a: b
      md5: d41d8cd98f00b204e9800998ecf8427e
      size: 0
    params:
      params.yaml:
        seed: 0
"""
NAMES = ["make", "split@a", "split@b-b", "train@full", "score@full-a", "score@full-b-b"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def repo(here: None) -> Repo:
    Repo.init(no_scm=True)
    return Repo()


def lock(names: list[str]) -> str:
    entries = "".join(f"  {name}:\n{ENTRY.format(name=name).replace('a: b', 'a-b')}" for name in names)
    return "schema: '2.0'\nstages:\n" + entries


@pytest.mark.parametrize("seed", range(5))
def test_any_order_becomes_that_of_the_pipeline(seed: int) -> None:
    names = random.Random(seed).sample(NAMES, len(NAMES))
    lockfile.LOCKFILE.write_text(lock(names))
    before = YAML(typ="safe").load(lockfile.LOCKFILE)
    lockfile.canonicalise(NAMES)
    after = YAML(typ="safe").load(lockfile.LOCKFILE)
    assert list(after["stages"]) == NAMES and after == before
    assert lockfile.LOCKFILE.read_text() == lock(NAMES)


def test_stages_of_other_presets_stay_with_their_family() -> None:
    lockfile.LOCKFILE.write_text(lock(["other", "train@small", "make", "split@c", "split@a", "train@full"]))
    lockfile.canonicalise(["make", "split@a", "train@full"])
    expected = ["make", "split@a", "split@c", "train@full", "train@small", "other"]
    assert list(YAML(typ="safe").load(lockfile.LOCKFILE)["stages"]) == expected


@pytest.mark.parametrize(
    "text", ["schema: '2.0'\nstages:\n  a: {cmd: b}\ndatasets: []\n", "schema: '2.0'\n", ""]
)
def test_what_looks_otherwise_is_left_alone(text: str) -> None:
    lockfile.LOCKFILE.write_text(text)
    lockfile.canonicalise(["b", "a"])
    assert lockfile.LOCKFILE.read_text() == text


PIPELINE = """\
stages:
  make:
    cmd: echo ${size} > made
    params: [size]
    outs: [made]
  part:
    foreach: ['1']
    do:
      cmd: cat made > part-1 && echo a rather long command so that it is wrapped where a line of the file ends
      deps: [made]
      outs: [part-1]
"""


def test_entries_are_written_as_dvc_writes_them(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("dvc.yaml").write_text(PIPELINE)
    texts = []
    for alone in (False, True):
        monkeypatch.undo()
        monkeypatch.chdir(repo.root_dir)
        monkeypatch.setattr(Lockfile, "dump_stages", Lockfile.dump_stages)  # put back afterwards
        if alone:
            lockfile.write_entries_alone()
            monkeypatch.setattr(dvc.dvcfile, "modify_yaml", None)  # what DVC dumps the whole file by
        lockfile.LOCKFILE.unlink(missing_ok=True)
        for size in (1, 2):
            Path("params.yaml").write_text(f"size: {size}\n")
            Repo().reproduce()
        lockfile.canonicalise(["make", "part@1"])
        texts.append(lockfile.LOCKFILE.read_text())
    assert texts[0] == texts[1] and "part@1" in texts[0]


def test_a_file_that_looks_otherwise_is_written_by_dvc_itself(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lockfile, "dump_stages", Lockfile.dump_stages)
    lockfile.write_entries_alone()
    Path("dvc.yaml").write_text(PIPELINE)
    Path("params.yaml").write_text("size: 1\n")
    lockfile.LOCKFILE.write_text("schema: '2.0'\nstages: {old: {cmd: a}}\n")
    repo.reproduce()
    assert list(YAML(typ="safe").load(lockfile.LOCKFILE)["stages"]) == ["old", "make", "part@1"]


@pytest.mark.parametrize("length", [0, 5, 14, 40, 120, 300])
def test_a_file_cut_short_is_put_back(length: int, repo: Repo, capsys: pytest.CaptureFixture) -> None:
    whole = lock(NAMES)
    lockfile.LOCKFILE.write_text(whole)
    lockfile.canonicalise(NAMES)
    lockfile.LOCKFILE.write_text(whole[:length])
    lockfile.repair(repo)
    assert lockfile.LOCKFILE.read_text() == whole
    assert "cut short" in capsys.readouterr().err


def test_dvc_can_read_the_file_wherever_it_was_cut(repo: Repo) -> None:
    whole = lock(NAMES)
    lockfile.LOCKFILE.write_text(whole)
    lockfile.canonicalise(NAMES)
    for length in range(0, 700, 13):
        lockfile.LOCKFILE.write_text(whole[:length])
        lockfile.repair(repo)
        assert set(Lockfile(repo, "dvc.lock").load()["stages"]) <= set(NAMES)


def test_a_whole_file_is_not_touched(repo: Repo) -> None:
    lockfile.LOCKFILE.write_text(lock(NAMES))
    lockfile.canonicalise(NAMES)
    lockfile.LOCKFILE.write_text(lock(NAMES[:2]))  # an older one, by `git checkout`
    lockfile.repair(repo)
    assert lockfile.LOCKFILE.read_text() == lock(NAMES[:2])
