"""`workflow.doctor` finds each kind of trouble, and its advice fixes it."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from medunifier.runtime.errors import InputError
from medunifier.runtime.own_encoder import FOLDER
from medunifier.tracking.store import Store
from tests.support.damage import flip
from tests.support.small_disk import make_read_only, small_disk
from tests.support.stored_runs import send
from tests.support.tracking_project import execute
from workflow import changes, doctor, locks


@pytest.fixture
def here(project: Path) -> Path:
    """A healthy project."""
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    (project / ".dvc/tmp").mkdir(parents=True)
    (project / ".dvc/config").write_text("[core]\n    hardlink_lock = false\n")
    return project


def said(capsys) -> str:
    code = doctor.main()
    text = capsys.readouterr().out
    assert code == (0 if text == "nothing to fix\n" else 1)
    return text


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["doctor"])


def test_a_healthy_project(here, capsys):
    assert said(capsys) == "nothing to fix\n"


def test_a_disk_that_is_read_only(here, capsys, tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", 64) as disk:
        shutil.copytree(here, disk / "project", symlinks=True)
        make_read_only(disk)
        monkeypatch.chdir(disk / "project")
        text = said(capsys)
    assert "lock_method: cannot be checked" in text and "its disk is read-only" in text


def test_an_input_that_is_not_there(here, capsys):
    (here / "dvc.yaml").write_text(
        "stages: {prepare: {cmd: 'true', deps: [raw/metadata.csv, ./raw/metadata.csv], outs: [data]}}\n"
    )
    text = said(capsys)
    assert "raw/metadata.csv: not there, but prepare reads it" in text and "--check DATASET" in text
    (here / "raw").mkdir()
    (here / "raw/metadata.csv").touch()
    assert said(capsys) == "nothing to fix\n"


def test_an_encoder_that_the_set_up_makes_is_not_there(here, capsys):
    (here / "dvc.yaml").write_text(f"stages: {{extract: {{cmd: 'true', deps: [{FOLDER}], outs: [data]}}}}\n")
    text = said(capsys)
    assert (
        f"{FOLDER}: not there, but extract reads it" in text and f"fix: `make setup` makes {FOLDER}" in text
    )
    assert "python -m medunifier.vision.convert efficientnet-lite0" in text and "--check DATASET" not in text
    with pytest.raises(InputError, match="`make setup` makes") as caught:
        changes.ask_dvc()
    assert "--check DATASET" not in str(caught.value)
    (here / FOLDER).mkdir(parents=True)
    assert said(capsys) == "nothing to fix\n"


def test_a_model_of_the_hub_without_a_commit(here, capsys):
    text = (here / "params.yaml").read_text()
    hub = re.sub(r"(?m)^  model: null", "  model: hf:org/vit", text)
    hub = re.sub(r"(?m)^  folder: encoders/tf_efficientnet_lite0", "  folder: workflow/none.txt", hub)
    for revision, found in (("main", True), ("0123456789abcdef" * 2 + "01234567", False)):
        (here / "params.yaml").write_text(hub.replace("revision: null", f"revision: {revision}"))
        assert ("vision.revision: main is a branch" in said(capsys)) is found


def test_entries_of_dead_processes(here, capsys):
    dead = subprocess.Popen(["true"])
    dead.wait()
    locks.RWLOCK.write_text(
        json.dumps({"write": {"/out": {"pid": dead.pid, "cmd": "dvc repro train"}}, "read": {}})
    )
    text = said(capsys)
    assert f"process {dead.pid} (dvc repro train)" in text and "rm .dvc/tmp/rwlock" in text
    locks.RWLOCK.write_text('{"write": {')
    assert "was cut short" in said(capsys)
    locks.RWLOCK.unlink()
    assert said(capsys) == "nothing to fix\n"


def test_a_hard_linked_lock_that_nobody_renews(here, capsys):
    lock = here / ".dvc/tmp/lock"
    lock.touch()
    os.link(lock, here / ".dvc/tmp/lock.claim")
    assert said(capsys) == "nothing to fix\n", "it may be in use"
    os.utime(lock, (0, 0))
    assert "held for over an hour" in said(capsys)


def test_a_file_system_without_locks(here, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "flock_excludes", lambda path: False)
    text = said(capsys)
    assert "flock does not keep a second process out" in text and "hardlink_lock true" in text


def test_flock_is_tried_with_a_second_process(tmp_path, monkeypatch):
    assert doctor.flock_excludes(tmp_path / "lock")
    monkeypatch.setattr("fcntl.flock", lambda *_: None)  # a file system that says yes and does nothing
    assert not doctor.flock_excludes(tmp_path / "lock")


def test_a_store_without_its_schema(here, capsys):
    (here / "mlflow.db").unlink()
    (here / "mlflow.db").touch()
    text = said(capsys)
    assert "mlflow.db: lacks the tables" in text and "python -m medunifier.tracking prepare" in text
    Store("sqlite:///mlflow.db")
    assert said(capsys) == "nothing to fix\n"


def test_a_server_that_is_down(here, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9: the MLflow store cannot be used" in said(capsys)


def test_a_damaged_database_of_dvc(here, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    folder = tmp_path / "site/repo/0123/links"
    folder.mkdir(parents=True)
    database = sqlite3.connect(folder / "cache.db")
    database.execute("CREATE TABLE links (path TEXT)")
    database.commit()
    database.close()
    assert said(capsys) == "nothing to fix\n"
    flip(folder / "cache.db", 100, 2)
    text = said(capsys)
    assert f"{folder}: damaged database of DVC" in text and f"rm -r {folder}" in text
    shutil.rmtree(folder)
    assert said(capsys) == "nothing to fix\n"


def test_half_written_shards(here, capsys):
    shard = here / "data/features/phantom/0"
    shard.mkdir(parents=True)
    (shard / "tokens.npy").touch()
    (here / "data/.x.partial").touch()
    text = said(capsys)
    assert "data/features/phantom/0: a shard without its manifest" in text
    assert "dvc repro -s extract_features@phantom-0" in text and "data/.x.partial: half-written" in text
    (shard / "manifest.json").touch()
    assert "manifest" not in said(capsys)


def test_records_that_have_not_reached_the_store(here, capsys):
    execute("first", curve=[(1, {"loss": 3.0})])
    assert "1 record(s) of stages have not reached MLflow" in said(capsys)
    assert send()
    assert said(capsys) == "nothing to fix\n"


def test_a_node_without_the_environment(here, capsys, monkeypatch, tmp_path):
    """Two nodes, of which one answers with its name: it lacks the Python or the folder."""
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\necho node7\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert "node7: has not" in said(capsys)
    from importlib.metadata import PackageNotFoundError

    def missing(name):
        raise PackageNotFoundError

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert "lacks torch" in said(capsys)


def test_links_that_cannot_cross(here, capsys, monkeypatch):
    cache = Path("/dev/shm")
    if cache.stat().st_dev == here.stat().st_dev:
        pytest.skip("no second file system here")
    (here / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n    type = hardlink\n")
    assert "is on another file system" in said(capsys)
