"""What dead processes leave behind is cleared; what belongs to the living stays."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from workflow import locks
from workflow.locks import (
    clear_dvc_locks,
    clear_snakemake_locks,
    end_orphans,
    exclusive,
    hold_until_exit,
    is_free,
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    return tmp_path


def living(*words: str, **variables: str) -> subprocess.Popen:
    """A process that does nothing for a minute, with `words` at the end of its command line."""
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", *words]
    process = subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_a_lock_ends_with_its_holder() -> None:
    path = Path("some/lock")
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(flush=True); time.sleep(60)"
    path.parent.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    holder.stdout.readline()
    assert not is_free(path) and hold_until_exit(path) is None
    holder.kill()
    holder.wait()
    assert is_free(path)
    held = hold_until_exit(path)
    assert held and not is_free(path) and str(os.getpid()) in locks.owner(path)
    held.close()
    with exclusive(path):
        assert not is_free(path)
    assert is_free(path)


def test_entries_of_the_dead_and_of_strangers_go(here: Path) -> None:
    stranger, dvc = living("sleep"), living("repro", "train")
    dead = subprocess.Popen(["true"])
    dead.wait()

    def entry(process: subprocess.Popen) -> dict:
        return {"pid": process.pid, "cmd": "/some/bin/dvc repro train"}

    out, inside, other = str(here / "models/full"), str(here / "models/full/config.json"), str(here / "other")
    record = {
        "write": {out: entry(stranger), other: entry(stranger)},
        "read": {inside: [entry(dead), entry(dvc)], other: [entry(dead)]},
    }
    locks.RWLOCK.write_text(json.dumps(record))
    try:
        clear_dvc_locks(reads=[], writes=[out])
    finally:
        for process in (stranger, dvc):
            process.kill()
            process.wait()
    assert json.loads(locks.RWLOCK.read_text()) == {
        "write": {other: entry(stranger)},  # no business of this stage: its owner may live on another node
        "read": {inside: [entry(dvc)], other: [entry(dead)]},
    }


def test_a_record_that_was_cut_short_goes() -> None:
    locks.RWLOCK.write_text('{"write": {"/a": {"pid": 12')
    clear_dvc_locks(reads=["/a"], writes=[])
    assert not locks.RWLOCK.exists()


def test_snakemake_marks_go_and_their_folders_stay() -> None:
    """Snakemake takes a missing folder for one of an older version."""
    for folder in locks.SNAKEMAKE_LEFTOVERS:
        folder.mkdir(parents=True)
        (folder / "mark").touch()
    clear_snakemake_locks()
    assert all(folder.is_dir() and not list(folder.iterdir()) for folder in locks.SNAKEMAKE_LEFTOVERS)


def test_orphans_end_and_others_live(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "GRACE", 5)
    orphan = living(DVC_STAGE="train", DVC_ROOT=str(here))
    other_stage = living(DVC_STAGE="score", DVC_ROOT=str(here))
    other_root = living(DVC_STAGE="train", DVC_ROOT="/elsewhere")
    # a stage that is under the care of a living DVC
    nurse = (
        "import os, subprocess, sys; os.environ.update(DVC_STAGE='train', DVC_ROOT=sys.argv[2]);"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    )
    dvc = subprocess.Popen([sys.executable, "-c", nurse, "workflow.run", str(here)])
    while not (cared := psutil.Process(dvc.pid).children()):
        time.sleep(0.02)
    started = time.monotonic()
    try:
        end_orphans("train", here)
        assert not psutil.pid_exists(orphan.pid)
        assert time.monotonic() - started < 4, "SIGTERM was enough"
        assert other_stage.poll() is None and other_root.poll() is None
        assert cared[0].is_running() and cared[0].status() != psutil.STATUS_ZOMBIE
    finally:
        for process in (orphan, other_stage, other_root, dvc, *cared):
            process.kill()
