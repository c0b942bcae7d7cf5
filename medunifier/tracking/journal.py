"""Journals: what a stage reports is appended to a file on disk, and the uploader brings it into MLflow's store.

Training never waits for the store, and nothing is lost when the store, the stage or the uploader ends early.
A journal is a folder `.state/tracking/journals/STAGE/ID/`:
`about.json` (whose it is), `journal.jsonl` (one entry a line), `artifacts/` (copies of files to upload),
`progress.json` (written by the uploader: what the store has). Its writer holds a lock on `journal.jsonl`.
All of them hold a CRC-32 of themselves: what a disk has damaged is left out, and hinders nobody.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from medunifier.runtime.file_locks import is_free, try_lock
from medunifier.runtime.files import atomic_path
from medunifier.tracking.settings import now, state_folder

REQUESTS = "requests"  # in place of a stage: journals of what is asked of the uploader


class Journal:
    """One execution of a stage, or one request to the uploader, on disk.

    Attributes:
        about: For whom: `uri` of the store, `configuration` (see `configuration.describe`), and for an execution
            `stage`, `execution_id`, `signature`, `started` (milliseconds since 1970) and `tags`.
    """

    def __init__(self, folder: Path) -> None:
        """Read whose journal it is.

        Raises:
            FileNotFoundError: It has been removed.
            ValueError: `about.json` is damaged.
        """
        self.folder = folder
        self.path = folder / "journal.jsonl"
        about = unsealed((folder / "about.json").read_bytes())
        if about is None:
            raise ValueError(f"{folder}/about.json: damaged")
        self.about: dict[str, Any] = about
        self.writing = threading.Lock()
        self.file: Any = None
        self.known: set[tuple[str, int]] = set()  # (metric, step) already in the journal

    @classmethod
    def create(cls, about: Mapping[str, Any]) -> Journal:
        """Make a new journal and claim it for this process."""
        name = about.get("execution_id") or uuid.uuid4().hex
        folder = state_folder() / "journals" / about.get("stage", REQUESTS) / name
        folder.mkdir(parents=True)
        file = (folder / "journal.jsonl").open("x+b", buffering=0)
        try_lock(file)  # before about.json exists nobody else knows the journal
        with atomic_path(folder / "about.json") as temporary:
            temporary.write_bytes(sealed(about))
        journal = cls(folder)
        journal.file = file
        return journal

    @classmethod
    def open(cls, folder: Path) -> Journal | None:
        """Return the journal in a folder; None if it has been removed, or is damaged and therefore set aside."""
        try:
            return cls(folder)
        except FileNotFoundError:
            return None
        except ValueError as error:
            with contextlib.suppress(FileNotFoundError):  # another process has done so
                (folder / "about.json").rename(folder / "about.json.broken")
            print(f"{error}; set aside: MLflow will not show this execution, its results are not affected")
            return None

    @classmethod
    def all(cls, stage: str | None = None) -> list[Journal]:
        """Return every journal on disk, or those of one stage, oldest first."""
        found: list[tuple[float, Path]] = []
        for path in (state_folder() / "journals").glob(f"{stage or '*'}/*/about.json"):
            try:
                found.append((path.stat().st_mtime, path))
            except FileNotFoundError:  # the uploader has sent all of it, meanwhile
                continue
        journals = [cls.open(path.parent) for _, path in sorted(found)]
        return [journal for journal in journals if journal is not None]

    def claim(self) -> bool:
        """Take the journal for writing; False if a living process has it, or if it has been removed."""
        try:
            file = self.path.open("r+b", buffering=0)
        except FileNotFoundError:
            return False
        for _ in range(
            10
        ):  # the uploader holds a shared lock for a moment when it looks whether someone writes
            if try_lock(file):
                break
            time.sleep(0.02)
        else:
            file.close()
            return False
        if not self._is_on_disk(file):
            file.close()
            return False
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)  # a kill can leave half a line
        file.seek(0, os.SEEK_END)
        self.file = file
        for entry, _ in self.entries(0):
            self.known |= {(key, entry["step"]) for key in entry.get("curve", ())}
        return True

    def _is_on_disk(self, file: IO) -> bool:
        """Return whether the open file is still the journal's: the uploader may have removed it before the lock."""
        try:
            return self.path.stat().st_ino == os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the journal back."""
        self.file.close()
        self.file = None

    def append(self, **entry: Any) -> None:
        """Add one entry; it survives the process at once."""
        line = sealed(entry | {"time": now()})
        with self.writing:
            start = self.file.tell()
            if self.file.write(line) != len(line):  # a full disk takes a part
                self.file.seek(self.file.truncate(start))
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def append_curve(self, step: int, values: Mapping[str, float]) -> None:
        """Add values at a step, except those that an interrupted execution has already reported."""
        new = {key: value for key, value in values.items() if (key, step) not in self.known}
        if new:
            self.known |= {(key, step) for key in new}
            self.append(step=step, curve=new)

    def append_artifact(self, path: Path, folder: str) -> None:
        """Keep a copy of the file until all of the execution is in the store."""
        place = Path("artifacts") / folder / path.name
        (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.folder / place)
        self.append(artifact=str(place), folder=folder)

    def entries(self, start: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each whole entry from byte `start` on, with the position after it; one that is damaged is empty."""
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                start += len(line)
                yield unsealed(line) or {}, start

    @property
    def size(self) -> int:
        """Bytes in the journal; 0 if it has been removed."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def status(self) -> str:
        """What the execution reported last of its status: RUNNING, FINISHED, FAILED or KILLED."""
        states = [entry["status"] for entry, _ in self.entries(0) if "status" in entry]
        return states[-1] if states else "RUNNING"

    @property
    def ended(self) -> bool:
        """Whether the execution came to its end, good or bad, rather than being killed."""
        return self.status in ("FINISHED", "FAILED")

    @property
    def alive(self) -> bool:
        """Whether a process is writing the journal."""
        return not is_free(self.path)

    @property
    def progress(self) -> dict[str, Any]:
        """What the store has: `offset` (bytes of the journal), `run_id` and `status` of the run.

        Nothing if that is damaged: all is sent again, and counts once.
        """
        path = self.folder / "progress.json"
        return unsealed(path.read_bytes()) or {} if path.exists() else {}

    def save_progress(self, progress: Mapping[str, Any]) -> None:
        """Write what the store has."""
        with atomic_path(self.folder / "progress.json") as temporary:
            temporary.write_bytes(sealed(progress))

    @property
    def waits(self) -> bool:
        """Whether the store lacks a part of it, or that a killed execution has ended."""
        progress = self.progress
        try:
            if next(self.entries(progress.get("offset", 0)), None) is not None:
                return True
        except FileNotFoundError:  # removed: all of it has been sent
            return False
        return progress.get("status") == "RUNNING" and not self.alive

    def remove(self) -> None:
        """Delete the journal; everything must have been sent."""
        (self.folder / "about.json").unlink(missing_ok=True)  # from here on it is not found any more
        shutil.rmtree(self.folder, ignore_errors=True)


def sealed(content: Mapping[str, Any]) -> bytes:
    """Return a line of JSON that holds its own CRC-32."""
    return json.dumps({**content, "crc32": _crc(content)}, sort_keys=True).encode() + b"\n"


def unsealed(line: bytes) -> dict[str, Any] | None:
    """Return the content of a sealed line; None if it is damaged. A line without a CRC-32 is of an earlier version."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    if not isinstance(content, dict) or content.pop("crc32", None) not in (None, _crc(content)):
        return None
    return content


def _crc(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
