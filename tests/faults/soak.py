"""One fault after the other, each in a fresh copy, and what came of them."""

from __future__ import annotations

import os
import re
import subprocess
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.catalogue import Cell, Fault, cells
from tests.faults.injection import inject
from tests.faults.injury import Missed, Stuck
from tests.faults.recovery import Outcome, recover
from tests.faults.sandbox import Sandbox, output_kinds
from tests.faults.subjects import Subject, Templates

VERDICTS = ("survived", "fixed", "wrong", "lost", "stuck", "broken", "missed", "skipped")
BAD = ("wrong", "lost", "stuck", "broken")  # the last: this harness failed, not the project
ATTEMPTS = 3  # to hit a moment; each comes earlier
FOLDERS = re.compile(r"(?<![\w.:/-])/(?:[^\s/'\"]+/)+")
SPACE = "512m"  # of the file system on which the copies lie


class Soak:
    """A subject with its templates, on a small file system of its own if this user may mount one.

    Attributes:
        cells: every kind of fault with every target that the subject has.
        seconds: that the undisturbed run took, with the interrupted one.
    """

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self.folder = subject, folder
        self.templates = Templates(subject, folder)
        self.cells: list[Cell] = []
        self.seconds = 0.0
        self.may_mount = os.geteuid() == 0

    def __enter__(self) -> Soak:
        arena = self.templates.arena
        arena.mkdir()
        if self.may_mount:
            mounted = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={SPACE}", "soak", arena], check=False
            )
            self.may_mount = mounted.returncode == 0
        started = time.monotonic()
        try:
            self.templates.make()
        except BaseException:
            self.__exit__()
            raise
        self.seconds = time.monotonic() - started
        with self.templates.copy("finished", tracking=False) as sandbox:
            self.cells = cells(output_kinds(sandbox.pipeline), self.subject.without)
        return self

    def __exit__(self, *_: object) -> None:
        if self.may_mount:
            subprocess.run(["umount", "--lazy", self.templates.arena], check=False)

    def run(self, fault: Fault) -> tuple[Outcome, str, float]:
        """Do one fault; return its outcome, what was done, and the seconds that it took."""
        started = time.monotonic()
        if fault.cell.kind in ("disk full", "read-only") and not self.may_mount:
            return Outcome("skipped"), "only root may mount a file system", 0.0
        what = ""
        for attempt in range(ATTEMPTS):
            with self._start(fault.cell) as sandbox:
                try:
                    outcome, what = self._try(sandbox, fault, 0.5**attempt)
                    break
                except Missed as error:
                    outcome, what = Outcome("missed"), str(error)
                except Exception:  # of this harness: the other faults are worth their time all the same
                    outcome, what = Outcome("broken", remarks=[traceback.format_exc()]), ""
                    break
        return outcome, what, time.monotonic() - started

    def _start(self, cell: Cell) -> Sandbox:
        state = "finished"
        if "from the beginning" in cell.target:
            state = "fresh"
        elif cell.target in ("checkpoint", "journal", ".state/checkpoints"):
            state = "interrupted"
        return self.templates.copy(state, tracking=cell.concerns_tracking)

    def _try(self, sandbox: Sandbox, fault: Fault, haste: float) -> tuple[Outcome, str]:
        finished = sandbox.finished()
        try:
            injury = inject(sandbox, fault.cell, fault.chance, haste)
        except Stuck as error:
            return Outcome("stuck", remarks=[str(error)]), fault.cell.target
        if self.subject.trained:  # unfinished where the copy is of the interrupted project
            injury.hit |= {self.subject.trained} - finished.keys()
        finished = {stage: value for stage, value in finished.items() if stage not in injury.hit}
        if injury.during:  # what was finished in spite of the fault is not to run again either
            finished |= {stage: value for stage, value in sandbox.finished().items() if stage in injury.hit}
        return recover(sandbox, injury, self.templates.hashes, finished), injury.what


def _without_folders(value: Any) -> Any:
    """Return a value of a record without the folders of absolute paths, which are of this machine alone."""
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    return FOLDERS.sub("", value) if isinstance(value, str) else value


@dataclass
class Tally:
    """What came of all faults."""

    command: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, fault: Fault, outcome: Outcome, what: str, seconds: float) -> str:
        """Count a fault; return the line that tells it."""
        row = {"number": fault.number, "kind": fault.cell.kind, "target": fault.cell.target, "what": what}
        row |= {"verdict": outcome.verdict, "seconds": round(seconds, 1)}
        row |= {name: value for name in ("advice", "remarks") if (value := getattr(outcome, name))}
        row = {name: _without_folders(value) for name, value in row.items()}
        self.rows = sorted([*self.rows, row], key=lambda row: row["number"])
        line = f"{fault} ({what}): {outcome.verdict}, {seconds:.0f} s"
        if outcome.advice:
            line += f"; as told: {'; '.join(outcome.advice)}"
        return "\n     ".join([line, *outcome.remarks])

    @property
    def counts(self) -> dict[str, int]:
        """Faults by verdict, and `injected`: all that hit something."""
        found = Counter(row["verdict"] for row in self.rows)
        injected = sum(found.values()) - found["missed"] - found["skipped"]
        return {"injected": injected} | {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def is_good(self) -> bool:
        """Whether no fault has done lasting harm."""
        return not any(self.counts[verdict] for verdict in BAD)

    def summary(self) -> str:
        """Return the counts, and for each failing fault the command that repeats it."""
        lines = [", ".join(f"{verdict} {count}" for verdict, count in self.counts.items())]
        for row in self.rows:
            if row["verdict"] in BAD:
                lines.append(
                    f"{row['verdict']}: {row['kind']}: {row['target']}; again: {self.command} --only {row['number']}"
                )
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """Return counts, times and every fault, for a record."""
        return {
            "counts": self.counts,
            "seconds": round(sum(row["seconds"] for row in self.rows)),
            "faults": self.rows,
        }
