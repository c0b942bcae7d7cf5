"""A small file system of its own, to be filled or made read-only. Needs root."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system in memory at a new folder; skip the test where that is not allowed."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "none"]
    mounted = subprocess.run(["mount", *options, folder], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def make_read_only(disk: Path) -> None:
    """Let nothing more be written on a disk of `small_disk`."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
