"""What a stage reports is first appended to a journal on disk, then sent to the store: training never waits,
and nothing is lost when the store breaks or the stage is killed.

A journal is a folder `.state/tracking/STAGE/RUN_ID/`:
`run.json` (whose run it is), `journal.jsonl` (one entry per line), `sent` (bytes of it that the store has),
`artifacts/` (copies of files that wait). The process that writes it holds a lock on `journal.jsonl`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medunifier.runtime.files import atomic_path
from medunifier.tracking.interface import PARENT_TAG, Point, Store, exclusive, now, state_folder


class Journal:
    """One execution of a stage, on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "journal.jsonl"
        self.about: dict[str, str] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        self.writing = threading.Lock()
        self.sending = threading.Lock()
        self.file: Any = None
        self.known: set[tuple[str, int]] = set()  # (metric, step) already in the journal

    @classmethod
    def create(cls, stage: str, run_id: str, parent_id: str, signature: str, uri: str) -> Journal:
        """A new journal; `uri` is the store that holds the run."""
        folder = state_folder() / stage / run_id
        about = {"stage": stage, "run_id": run_id, "parent_id": parent_id, "signature": signature, "uri": uri}
        (folder / "artifacts").mkdir(parents=True, exist_ok=True)
        (folder / "journal.jsonl").touch()
        with atomic_path(folder / "run.json") as temporary:
            temporary.write_text(json.dumps(about, sort_keys=True) + "\n", encoding="utf-8")
        return cls(folder)

    @classmethod
    def all(cls, stage: str | None = None) -> list[Journal]:
        """Every journal on disk, or those of one stage, oldest first."""
        found = state_folder().glob(f"{stage or '*'}/*/run.json")
        return [cls(path.parent) for path in sorted(found, key=lambda path: (path.stat().st_mtime, path))]

    def claim(self) -> bool:
        """Takes the journal for writing; False if a living process has it."""
        file = self.path.open("r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)  # a kill can leave half a line
        file.seek(0, os.SEEK_END)
        self.file = file
        for entry, _ in self.entries(0):
            self.known |= {(key, entry["step"]) for key in entry.get("curve", ())}
        return True

    def release(self) -> None:
        """Gives the journal back."""
        self.file.close()
        self.file = None

    def append(self, **entry: Any) -> None:
        """Adds one entry; it survives the process at once."""
        line = json.dumps(entry | {"time": now()}).encode() + b"\n"
        with self.writing:
            start = self.file.tell()
            if self.file.write(line) != len(line):  # a full disk takes a part
                self.file.seek(self.file.truncate(start))
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def append_curve(self, step: int, values: Mapping[str, float]) -> None:
        """Adds values at a step, save those that an interrupted execution has already reported."""
        new = {key: value for key, value in values.items() if (key, step) not in self.known}
        if new:
            self.known |= {(key, step) for key in new}
            self.append(step=step, curve=new)

    def append_artifact(self, path: Path, folder: str) -> None:
        """Keeps a copy of the file until the store has it."""
        place = Path("artifacts") / folder / path.name
        (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.folder / place)
        self.append(artifact=str(place), folder=folder)

    def entries(self, start: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Each whole entry from byte `start` on, with the position after it."""
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                start += len(line)
                if line.endswith(b"\n"):
                    yield json.loads(line), start

    @property
    def sent(self) -> int:
        """Bytes of the journal that the store has."""
        path = self.folder / "sent"
        return int(path.read_text()) if path.exists() else 0

    @property
    def status(self) -> str:
        """What the execution said last of its status: RUNNING, FINISHED, FAILED or KILLED."""
        states = [entry["status"] for entry, _ in self.entries(0) if "status" in entry]
        return states[-1] if states else "RUNNING"

    @property
    def ended(self) -> bool:
        """True if the execution came to its end, good or bad, rather than being killed."""
        return self.status in ("FINISHED", "FAILED")

    def send(self, store: Store) -> bool:
        """Gives the store what it does not have yet; False if there was nothing. Raises StoreError.

        Sending an entry twice changes nothing in a store, so a crash before `sent` is written does no harm.
        """
        with self.sending:
            pending = list(self.entries(self.sent))
            if not pending:
                return False
            deliver(store, self.about, self.folder, [entry for entry, _ in pending])
            with atomic_path(self.folder / "sent") as temporary:
                temporary.write_text(str(pending[-1][1]))
        for entry, _ in pending:
            if "artifact" in entry:
                (self.folder / entry["artifact"]).unlink(missing_ok=True)
        return True

    def remove(self) -> None:
        """Forgets the execution; everything must have been sent."""
        shutil.rmtree(self.folder)


def deliver(store: Store, about: Mapping[str, str], folder: Path, entries: list[dict[str, Any]]) -> None:
    """Writes journal entries to the store: metrics, parameters and tags in one batch, then files, then the status.

    Final metrics go to the parent too, as STAGE/METRIC, so that configurations can be compared there.
    """
    run_id, parent_id = about["run_id"], about["parent_id"]
    points: list[Point] = []
    summary: list[Point] = []
    params: dict[str, Any] = {}
    tags: dict[str, str] = {}
    for entry in entries:
        time, step = entry["time"], entry.get("step", 0)
        points += [Point(key, value, time, step) for key, value in entry.get("curve", {}).items()]
        points += [
            Point(key, value, time)
            for key, value in (entry.get("metrics", {}) | entry.get("costs", {})).items()
        ]
        summary += [
            Point(f"{about['stage']}/{key}", value, time) for key, value in entry.get("metrics", {}).items()
        ]
        params |= entry.get("params", {})
        tags |= entry.get("tags", {})
    store.log(run_id, points, params, tags)
    if summary:
        store.log(parent_id, summary, {}, {})
    for entry in entries:
        if "artifact" in entry:
            store.add_artifact(run_id, folder / entry["artifact"], entry["folder"])
    states = [entry["status"] for entry in entries if "status" in entry]
    if states:
        store.set_status(run_id, states[-1])
        settle_parent(store, parent_id)


def settle_parent(store: Store, parent_id: str) -> None:
    """Gives the parent its last child's status, or RUNNING while any child runs."""
    with exclusive():  # two children that end together must see each other
        states = [child.status for child in store.find({PARENT_TAG: parent_id})]
        if states:
            store.set_status(parent_id, "RUNNING" if "RUNNING" in states else states[-1])
