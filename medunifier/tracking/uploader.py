"""The uploader: one process that brings all journals of this folder into MLflow's store while stages work.

It imports MLflow once for a whole pipeline and ends when nothing is left to send and no stage, snakemake or
`dvc repro` runs any more. It may be killed at any moment: the next one goes on from `progress.json`.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from medunifier.runtime.file_locks import hold_until_exit, is_free
from medunifier.tracking import background
from medunifier.tracking.delivery import Delivery, Parents
from medunifier.tracking.journal import Journal
from medunifier.tracking.settings import StoreError, now, patience, snakemake_lock, state_folder
from medunifier.tracking.store import Store

LOOK_EVERY = 1.0  # seconds between two looks at the journals; a look takes under a millisecond
SEND_EVERY = 10.0  # seconds between two batches of a stage that goes on
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0  # seconds after which a store that failed is tried again
GIVE_UP = 20  # times patience(): a store that fails for so long after all work has ended is left alone


@dataclass
class Target:
    """One store and how it works at present."""

    uri: str
    store: Store | None = None
    parents: Parents | None = None
    pause: float = 0.0  # seconds until the next attempt; 0: the last one went well
    again: float = 0.0  # when (monotonic) to try again

    def open(self) -> tuple[Store, Parents]:
        """Return the store, opened if need be.

        Raises:
            StoreError: If it cannot be used.
        """
        if self.store is None or self.parents is None:
            self.store = Store(self.uri)
            self.parents = Parents(self.store)
        return self.store, self.parents

    def failed(self) -> None:
        """Wait before the next attempt, longer each time, and open the store again then."""
        self.pause = min(max(FIRST_PAUSE, 2 * self.pause), LONGEST_PAUSE)
        self.again = time.monotonic() + self.pause
        self.store = self.parents = None


@dataclass
class Uploader:
    """All journals of this folder and the stores that they name."""

    targets: dict[str, Target] = field(default_factory=dict)
    deliveries: dict[Path, Delivery] = field(default_factory=dict)
    sent: dict[Path, float] = field(default_factory=dict)  # when (monotonic) a journal was sent last
    problems: dict[str, dict[str, Any]] = field(default_factory=dict)
    callers: list[psutil.Process] = field(default_factory=list)  # each `dvc repro` whose stages were seen

    def look(self) -> bool:
        """Send what is due; return whether something is left to send.

        Raises:
            StoreReplacedError: If this process can no longer use a store that another could.
        """
        self.refresh()
        for target in self.targets.values():
            if target.store is not None:
                target.store.check_identity()
        waiting = False
        for folder, delivery in list(self.deliveries.items()):
            if not delivery.journal.path.exists():
                del self.deliveries[folder]
                continue
            if self.is_due(delivery):
                waiting |= not self.deliver(delivery)
            else:
                waiting |= delivery.journal.waits
            self.clear(delivery)
        return waiting

    def refresh(self) -> None:
        """Find journals that have appeared; a new one is a reason to try its store at once."""
        for path in sorted((state_folder() / "journals").glob("*/*/about.json"), key=modified):
            if path.parent not in self.deliveries:
                journal = Journal.open(path.parent)
                if journal is None:
                    continue
                try:
                    delivery = Delivery(journal)
                except FileNotFoundError:
                    continue
                self.deliveries[path.parent] = delivery
                self.target(delivery).again = 0.0
                self.callers += living(delivery.callers)

    def target(self, delivery: Delivery) -> Target:
        """Return the store of a journal."""
        uri = delivery.journal.about["uri"]
        return self.targets.setdefault(uri, Target(uri))

    def is_due(self, delivery: Delivery) -> bool:
        """Whether the journal holds something to send now: at its start, at intervals and at its end."""
        journal = delivery.journal
        if self.target(delivery).again > time.monotonic():
            return False
        if journal.size == delivery.offset:
            return delivery.status == "RUNNING" and not journal.alive
        last = self.sent.get(journal.folder)
        return last is None or time.monotonic() - last >= SEND_EVERY or not journal.alive

    def deliver(self, delivery: Delivery) -> bool:
        """Send a journal's news; False, and its store is left alone for a while, if that fails."""
        target = self.target(delivery)
        try:
            sent = delivery.send(*target.open())
        except StoreError as error:
            if target.pause == 0.0 or self.problems.get(target.uri, {}).get("message") != str(error):
                print(f"{time.ctime()}: {error}", flush=True)
            target.failed()
            self.report(target.uri, str(error))
            return False
        except Exception:
            print(f"{time.ctime()}: {delivery.journal.folder} cannot be sent", flush=True)
            traceback.print_exc()
            target.failed()
            self.report(target.uri, f"{delivery.journal.folder}: cannot be sent: {sys.exc_info()[1]!r}")
            return False
        target.pause = 0.0
        self.report(target.uri, None)
        if sent:
            self.sent[delivery.journal.folder] = time.monotonic()
            self.callers += living(delivery.callers)
        return True

    def report(self, uri: str, message: str | None) -> None:
        """Tell in a file that stages and snakemake read why a store cannot be used, or that it can."""
        if message is not None:
            self.problems[uri] = {"message": message, "time": now()}
        elif self.problems.pop(uri, None) is None:
            return
        background.save_problems(self.problems)

    def clear(self, delivery: Delivery) -> None:
        """Remove a journal that is completely in the store, and with it earlier, killed executions of the stage."""
        journal = delivery.journal
        if not delivery.ended or journal.size != delivery.offset or not journal.claim():
            return
        complete = journal.size == delivery.offset  # a claim also cuts a line that a kill left unfinished
        journal.release()
        if not complete:
            return
        if delivery.status == "FINISHED":
            for other in self.deliveries.values():
                same = other.journal.about.get("stage") == journal.about.get("stage")
                if same and other is not delivery and other.status == "KILLED" and other.journal.claim():
                    unsent = other.journal.size != other.offset
                    other.journal.release()
                    if not unsent:
                        other.journal.remove()
        journal.remove()
        self.deliveries.pop(journal.folder, None)

    def is_needed(self) -> bool:
        """Whether a stage, snakemake or `dvc repro` runs here, so that more may come."""
        self.callers = [process for process in self.callers if process.is_running()]
        if self.callers or not is_free(snakemake_lock()):
            return True
        return any(delivery.journal.alive for delivery in self.deliveries.values())


def modified(path: Path) -> float:
    """Return when a file was written; 0 for one that has gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def living(callers: list[dict[str, Any]]) -> Iterator[psutil.Process]:
    """Yield those of the `dvc` processes that a stage has named which still run on this machine."""
    for caller in callers:
        try:
            process = psutil.Process(caller["pid"])
            if caller["host"] == platform.node() and abs(process.create_time() - caller["created"]) < 1:
                yield process
        except psutil.Error:
            continue


def serve(lock: IO) -> None:
    """Bring journals into the store until nothing is left.

    Args:
        lock: The open lock file of `background.lock_path()`, held by this process.
    """
    os.nice(5)  # training goes first
    print(f"{time.ctime()}: uploader, process {os.getpid()} on {platform.node()}", flush=True)
    uploader = Uploader()
    held: IO | None = lock
    while held is not None:
        given_up = work(uploader)
        held.close()
        # A stage that began before the lock was free relies on this process: its journal is on disk by now.
        uploader.refresh()
        journals = [delivery.journal for delivery in uploader.deliveries.values()]
        if given_up or not any(journal.waits or journal.alive for journal in journals):
            return
        held = hold_until_exit(background.lock_path())


def work(uploader: Uploader) -> bool:
    """Look at the journals again and again; return when nobody needs it any more.

    Returns:
        True if something is left to send: its store has failed since all work ended, for GIVE_UP times `patience()`.
    """
    idle_since: float | None = None
    while True:
        waiting = uploader.look()
        if uploader.is_needed():
            idle_since = None
        elif not waiting:
            return False
        elif idle_since is None:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since > GIVE_UP * patience():
            return True
        time.sleep(LOOK_EVERY)
