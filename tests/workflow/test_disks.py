"""A project on a disk that is full or read-only: one message, no traceback. Needs root, to mount a small disk."""

import contextlib
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from medunifier.runtime.errors import user_message
from tests.bad_input.outcome import time_limit
from tests.support.small_disk import make_read_only, small_disk
from tests.support.toy_pipeline import Toy
from workflow.dvc_repair import open_repo


@pytest.fixture
def on_disk(tmp_path: Path, done_template: Toy) -> Iterator[Toy]:
    """The toy pipeline after a complete run, alone on a file system in memory."""
    with small_disk(tmp_path / "disk", 16) as disk:
        yield done_template.copy_to(disk / "toy")


def fill(toy: Toy) -> None:
    with (toy.folder / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def remount_read_only(toy: Toy) -> None:
    make_read_only(toy.folder.parent)


def remember(links) -> None:
    for number in range(1000):
        links[f"path {number}" * 100] = ("token", "inode")


@pytest.mark.parametrize(
    ("spoil", "message"), [(fill, "the disk is full"), (remount_read_only, "its disk is read-only")]
)
def test_dvcs_databases_fail_instead_of_trying_for_ever(
    on_disk: Toy, spoil, message: str, monkeypatch
) -> None:
    monkeypatch.chdir(on_disk.folder)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(on_disk.folder / ".dvc/tmp/site-cache"))
    state = open_repo().state
    links = state.links
    links["before"] = ("token", "inode")
    state.close()  # they open again where they are used
    spoil(on_disk)
    with time_limit(), pytest.raises((OSError, sqlite3.DatabaseError)) as raised:
        remember(links)
    assert message in (user_message(raised.value) or "")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(fill, "the disk is full: could not write"), (remount_read_only, "its disk is read-only")],
)
def test_a_plan_and_a_stage_say_what_is_wrong_with_the_disk(on_disk: Toy, spoil, message: str) -> None:
    on_disk.edit("params.yaml", "full: {weight: 1}", "full: {weight: 2}")
    (on_disk.folder / "dvc.lock").write_text(
        on_disk.read("dvc.lock") + "\n" * 9
    )  # to be written in order again
    spoil(on_disk)
    on_disk.environment["TMPDIR"] = str(on_disk.folder.parent.parent)
    for command in (
        "snakemake -n",
        "snakemake --cores 1",
        "python -m workflow.status",
        "python -m workflow.run train@full",
        "python -m workflow.run --log .state/logs/train train@full",
    ):
        done = subprocess.run(
            command.split(),
            cwd=on_disk.folder,
            env=on_disk.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        told = done.stdout + done.stderr
        assert done.returncode == 1 and message in told and "Traceback" not in told, f"{command}: {told}"
