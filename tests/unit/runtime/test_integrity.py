"""Damage is found whatever the file, when it is first read and, by samples, later; healthy files are read once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from medunifier.runtime import integrity
from medunifier.runtime.dvc_pipeline import Pipeline
from medunifier.runtime.errors import InputError
from medunifier.runtime.integrity import damages, verify_inputs
from tests.support.damage import flip

MAKE = """\
from pathlib import Path
for name, size in (("folder/one.bin", 3_000_000), ("folder/deep/two.bin", 10), ("folder/deep.txt", 5), ("file.bin", 9)):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
"""
DVC_YAML = """\
stages:
  make: {cmd: python make.py, deps: [make.py], outs: [folder, file.bin]}
  use: {cmd: python make.py, deps: [folder/deep, file.bin], outs: [used]}
  all: {cmd: python make.py, deps: [folder, file.bin], outs: [all]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which DVC itself has recorded and cached two outputs."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "make.py").write_text(MAKE)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "params.yaml").write_text("{}\n")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in (["init", "--no-scm", "-q"], ["repro", "-q", "make"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=folder, check=True, env=environment)
    return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("MEDUNIFIER_STATE", str(tmp_path / "state"))
    return tmp_path / "project"


def found(output: str, sample: str | None = "use") -> list[str]:
    expected = Pipeline().locked[output]
    return [str(damage.path) for damage in damages(Path(output), expected, sample=sample)]


def test_hashes_are_dvc_s(project):
    assert found("folder") == found("file.bin") == []
    verify_inputs(Pipeline(), "use")


@pytest.mark.parametrize("name", ["folder/one.bin", "folder/deep/two.bin", "folder/deep.txt", "file.bin"])
def test_one_flipped_bit_is_named(project, name):
    flip(project / name, 3)
    assert found(name.partition("/")[0]) == [name]
    with pytest.raises(
        InputError, match=rf"{name}: damaged: dvc.lock expects the MD5 \w{{32}}, found \w{{32}}"
    ):
        verify_inputs(Pipeline(), "all")


@pytest.mark.parametrize("name", ["folder/deep/two.bin", "file.bin"])
def test_damage_of_a_part_that_a_stage_reads_is_named(project, name):
    flip(project / name, 3)
    with pytest.raises(InputError, match=f"^{name}: damaged"):
        verify_inputs(Pipeline(), "use")


def test_what_a_stage_does_not_read_is_not_checked(project, monkeypatch):
    """`use` reads one folder of `folder`; damage beside it is for other stages to find."""
    reads = []
    whole = integrity._read_whole
    monkeypatch.setattr(integrity, "_read_whole", lambda path: reads.append(path.name) or whole(path))
    flip(project / "folder/one.bin", 3)
    verify_inputs(Pipeline(), "use")
    assert sorted(reads) == ["file.bin", "two.bin"]


def test_missing_and_additional_files_are_named(project):
    (project / "folder/deep.txt").unlink()
    (project / "folder/more.txt").touch()
    assert found("folder") == ["folder/deep.txt", "folder/more.txt"]


def test_without_the_list_in_the_cache_the_folder_is_named(project):
    flip(project / "folder/one.bin", 0)
    for listing in (project / ".dvc/cache/files/md5").glob("*/*.dir"):
        listing.unlink()
    assert found("folder") == ["folder"]


def test_a_file_is_read_whole_once_and_in_samples_later(project, monkeypatch):
    reads = []
    whole = integrity._read_whole
    monkeypatch.setattr(integrity, "_read_whole", lambda path: reads.append(path.name) or whole(path))
    assert found("folder") == [] and len(reads) == 3
    assert found("folder") == [] and len(reads) == 3
    os.utime(project / "folder/one.bin", (1, 1))
    assert found("folder") == [] and reads[3:] == ["one.bin"]
    assert found("folder", sample=None) == [] and len(reads) == 7


def test_samples_of_different_stages_find_damage_of_a_known_file(project):
    """Three blocks: a stage looks at one, chosen by its name; every block is somebody's."""
    assert found("folder") == []
    flip(project / "folder/one.bin", 2_500_000)
    finds = [found("folder", sample=f"stage{number}") for number in range(20)]
    assert ["folder/one.bin"] in finds and [] in finds
    assert found("folder", sample=None) == ["folder/one.bin"]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"hash": 1}', '{"hash": "HASH", "crc32": {"": 1, "deep.txt": []}}']
)
def test_a_damaged_record_costs_a_reading_and_nothing_else(project, tmp_path, content):
    assert found("folder") == []
    for record in (tmp_path / "state/verified").iterdir():
        record.write_text(content.replace("HASH", Pipeline().locked["folder"]))
    assert found("folder") == []
    flip(project / "folder/one.bin", 0)
    for record in (tmp_path / "state/verified").iterdir():
        record.unlink()
    assert found("folder") == ["folder/one.bin"]


def test_a_record_with_digests_of_another_kind_is_no_damage(project, tmp_path):
    assert found("folder") == []
    for record in (tmp_path / "state/verified").iterdir():
        content = json.loads(record.read_text())
        files = {name: [*file[:-1], ["0" * 16] * len(file[-1])] for name, file in content["crc32"].items()}
        record.write_text(json.dumps({"hash": content["hash"], "files": files}))
    assert found("folder") == []


@pytest.mark.parametrize("part", [3, 5], ids=["md5", "crc32"])
def test_a_wrong_digest_in_a_record_is_no_damage_of_the_file(project, tmp_path, part):
    assert found("folder") == []
    (record,) = (tmp_path / "state/verified").iterdir()
    content = json.loads(record.read_text())
    for file in content["crc32"].values():
        file[part] = "0" * 32 if part == 3 else ["0" * 8] * len(file[part])
    record.write_text(json.dumps(content))
    assert found("folder") == []
    assert json.loads(record.read_text()) != content, "it was written again"


def test_outputs_of_other_presets_do_not_count(project):
    """dvc.lock keeps entries of stages that the present dvc.yaml does not have."""
    lock = YAML(typ="safe").load(project / "dvc.lock")
    lock["stages"]["gone"] = {"outs": [{"path": "folder/deep", "md5": "0" * 32}]}
    YAML(typ="safe").dump(lock, project / "dvc.lock")
    verify_inputs(Pipeline(), "use")
