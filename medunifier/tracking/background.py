"""The uploader as a background process: started where none runs, and waited for, without importing MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medunifier.runtime.file_locks import is_free
from medunifier.runtime.files import atomic_path
from medunifier.tracking.configuration import request, request_adoption
from medunifier.tracking.journal import Journal
from medunifier.tracking.settings import (
    UPLOAD_COMMAND,
    StoreError,
    now,
    patience,
    snakemake_lock,
    state_folder,
    store_uri,
    uploader_allowed,
)

SLOW_START = 300.0  # seconds for importing MLflow and making its tables on a busy node
START_SECONDS = 10.0  # until an uploader that was started holds its lock
MOST_STARTS = 3
CHECK_EVERY = 60.0  # seconds between two looks of a stage, or of snakemake, whether the uploader still runs
LONGEST_LOG = 1_000_000  # bytes; a longer one is begun again
LONGEST_PAUSE = 1800.0  # between two looks, after uploaders have ended again and again
# Of the process that starts the uploader, not of the uploader: it belongs to no stage, rank or job.
FOREIGN = ("DVC_", "SLURM_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")

_started = -START_SECONDS  # when (monotonic) this process has started an uploader last


def lock_path() -> Path:
    """Return the lock file that the uploader holds."""
    return state_folder() / "uploader.lock"


def log_path() -> Path:
    """Return the file for all that uploaders print."""
    return state_folder() / "uploader.log"


def is_running() -> bool:
    """Return whether an uploader runs for this folder."""
    return not is_free(lock_path())


def start() -> bool:
    """Start an uploader if none runs; return whether one was started. Never raises: a stage goes on without."""
    global _started
    if not uploader_allowed() or is_running() or time.monotonic() - _started < START_SECONDS:
        return False
    try:
        state_folder().mkdir(parents=True, exist_ok=True)
        old = log_path().exists() and log_path().stat().st_size > LONGEST_LOG
        with log_path().open("wb" if old else "ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", "medunifier.tracking", "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)},
            )
    except OSError:
        return False
    _started = time.monotonic()
    return True


class Keeper:
    """Starts an uploader again if it has ended too early, at most every CHECK_EVERY seconds."""

    def __init__(self) -> None:
        self.pause = CHECK_EVERY
        self.next = time.monotonic() + self.pause

    def check(self) -> None:
        """Look after the uploader if it is time."""
        if time.monotonic() >= self.next:
            if start():
                self.pause = min(2 * self.pause, LONGEST_PAUSE)
            self.next = time.monotonic() + self.pause

    def run(self) -> None:
        """Look after the uploader for as long as this process runs."""
        while True:
            time.sleep(CHECK_EVERY)
            self.check()


def begin_run() -> None:
    """Start the uploader for a run of the pipeline, and look after it from a thread of this process.

    Raises:
        StoreError: If the store cannot be used, before anything is computed.
    """
    if not uploader_allowed():
        return
    journal = request(check=True)
    try:
        wait_for([journal], SLOW_START)
    except StoreError:
        if journal.claim():
            journal.release()
            journal.remove()
        raise
    threading.Thread(target=Keeper().run, daemon=True, name="uploader-keeper").start()


def adopt(names: Iterable[str]) -> None:
    """Show stages that are up to date under the present configuration, and wait until all is in the store.

    Raises:
        StoreError: If the store cannot be used, or makes no progress for `patience()` seconds.
    """
    request_adoption(names)
    upload()


def upload() -> int:
    """Wait until all that journals hold now is in the store; return how many held something.

    Raises:
        StoreError: If a store cannot be used, or makes no progress for `patience()` seconds.
    """
    waiting = [journal for journal in Journal.all() if journal.waits]
    if waiting:
        wait_for(waiting, SLOW_START)
    return len([journal for journal in waiting if "stage" in journal.about])


def wait_for(journals: Iterable[Journal], first: float) -> None:
    """Wait until the store has what `journals` hold now.

    Args:
        journals: What to wait for.
        first: Seconds until the uploader has opened the store; then `patience()` counts from each progress on.

    Raises:
        StoreError: If their store cannot be used or makes no progress, or if no uploader can be started.
    """
    begin = now()
    sizes = {journal.folder: journal.size for journal in journals}
    left = {journal.folder: journal for journal in journals}
    starts = 0
    deadline = time.monotonic() + first
    seen: tuple[int, int] | None = None
    while left:
        starts += start()
        if starts > MOST_STARTS or not uploader_allowed():
            raise StoreError(unfinished(len(left)))
        for journal in left.values():
            if message := problem(journal.about["uri"], begin):
                raise StoreError(message)
        progress = (len(left), sum(journal.progress.get("offset", 0) for journal in left.values()))
        if seen is not None and progress != seen:
            deadline = time.monotonic() + patience()
        seen = progress
        if time.monotonic() > deadline:
            raise StoreError(unfinished(len(left)))
        time.sleep(0.1)
        left = {folder: journal for folder, journal in left.items() if lacks(journal, sizes[folder])}


def unfinished(count: int) -> str:
    """Return the message for records that do not reach the store, for no reason that the uploader knows."""
    why = f"see {log_path()}" if uploader_allowed() else "MEDUNIFIER_UPLOADER=off forbids to send them"
    return f"{store_uri()}: {count} record(s) of stages have not reached MLflow: {why}"


def lacks(journal: Journal, size: int) -> bool:
    """Whether the store lacks a part of the first `size` bytes, or that a killed execution has ended."""
    if not (journal.folder / "about.json").exists():
        return False
    return journal.waits and (journal.progress.get("offset", 0) < size or not journal.alive)


def status_path() -> Path:
    """Return the file in which the uploader tells what hinders it."""
    return state_folder() / "uploader.json"


def save_problems(problems: dict[str, dict[str, Any]]) -> None:
    """Write, for each store that cannot be used, the message and when it was found (milliseconds since 1970)."""
    with atomic_path(status_path()) as temporary:
        temporary.write_text(json.dumps(problems), encoding="utf-8")


def problem(uri: str, since: int = 0) -> str | None:
    """Return why a store could not be used at or after the time `since`, if so and as far as is known."""
    try:
        problems = json.loads(status_path().read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    found = problems.get(uri)
    return found["message"] if found and found["time"] >= since else None


def is_under_snakemake() -> bool:
    """Return whether a snakemake runs in this folder, which starts the uploader and looks after it."""
    return not is_free(snakemake_lock())


def warning(name: str, uri: str) -> str:
    """Return what a stage prints at its end if the uploader cannot use the store; empty if it can."""
    message = problem(uri)
    if message is None:
        return ""
    return (
        f"[{name}] warning: {message}\n[{name}] the results are written; "
        f"send the stage's record to MLflow later: {UPLOAD_COMMAND}"
    )
