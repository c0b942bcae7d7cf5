"""Lock files by `flock`: the system releases them when the process ends, however it ends."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

RETRY_SECONDS = 1.0  # `is_free` holds a lock for a moment; whoever wants it meanwhile tries again


@contextlib.contextmanager
def exclusive(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold the lock file `path`; if another process has it, print `waiting` and wait."""
    with _open(path) as file:
        if not try_lock(file):
            if waiting:
                print(f"{waiting} (held by {owner(path)})", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        _sign(file)
        yield


def hold_until_exit(path: Path) -> IO | None:
    """Take the lock file `path` for as long as the returned file stays open; None if another process has it."""
    file = _open(path)
    end = time.monotonic() + RETRY_SECONDS
    while not try_lock(file):
        if time.monotonic() > end:
            file.close()
            return None
        time.sleep(0.02)
    _sign(file)
    return file


def is_free(path: Path) -> bool:
    """Return whether no process holds the lock file `path`. Takes a shared lock for a moment."""
    if not path.exists():
        return True
    with path.open("rb") as file:
        return try_lock(file, fcntl.LOCK_SH)


def owner(path: Path) -> str:
    """Return host and process id of the last holder of `path`."""
    return path.read_text(encoding="utf-8").strip() if path.exists() else "nobody"


def try_lock(file: IO, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file without waiting; return whether that was possible."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> IO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+", encoding="utf-8")


def _sign(file: IO) -> None:
    file.truncate(0)
    file.write(f"{socket.gethostname()} process {os.getpid()}")
    file.flush()
