"""Every kind of fault with every target, in an order that a seed decides."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

SIGNALLED = ("stage", "runner", "snakemake", "dvc", "uploader", "all")
FOLDERS = ("data", "models", "results", ".state", ".dvc")  # what becomes read-only in the midst of a run
STARTS = ("snakemake snakemake", "snakemake dvc", "dvc dvc")
# Where a bit is flipped, besides the outputs of stages; a pattern of paths, of which one file is chosen.
STATE_FILES = {
    "checkpoint": ".state/checkpoints/**/*.pt",
    "cache object": ".dvc/cache/files/md5/*/*[0-9a-f]",
    "cached list of a folder": ".dvc/cache/files/md5/*/*.dir",
    "run cache": ".dvc/cache/runs/*/*/*",
    "dvc.lock": "dvc.lock",
    "copy of dvc.lock": ".state/dvc.lock.whole",
    "plan": ".state/plan.json",
    "verified": ".state/verified/*.json",
    "journal": ".state/tracking/journals/*/*/*.json*",
    "outcome": ".state/outcomes/*",
    "costs": ".state/costs/*.json",
    "DVC's database": ".dvc/tmp/site-cache/**/*.db",
    "DVC's record of processes": ".dvc/tmp/rwlock",
    "MLflow's database": "mlflow.db",
}
# What is deleted, besides all these.
STATE_PLACES = (
    ".state",
    ".state/stamps",
    ".state/checkpoints",
    ".state/verified",
    ".state/tracking",
    ".state/locks",
    ".snakemake",
    ".dvc/cache",
    ".dvc/cache/runs",
    ".dvc/tmp",
    "mlartifacts",
)
# In these the moment is random, so that they are worth repeating; so would `server` be, which takes long.
TIMED = ("SIGKILL", "SIGTERM", "SIGINT", "disk full", "read-only", "two starts")
TRACKING = ("uploader", "all", ".state/tracking", "journal", "MLflow's database", "mlartifacts")


@dataclass(frozen=True)
class Cell:
    """A kind of fault with its target."""

    kind: str
    target: str

    @property
    def concerns_tracking(self) -> bool:
        """Whether MLflow takes part. Elsewhere it does not: loading it takes longer than the rest."""
        return self.kind == "server" or self.target in TRACKING


@dataclass(frozen=True)
class Fault:
    """One fault. All that is random about it comes from `seed` and `number`."""

    seed: int
    number: int
    cell: Cell

    @property
    def chance(self) -> random.Random:
        """Return a new source of random numbers, the same each time."""
        return random.Random(f"{self.seed} {self.number}")

    def __str__(self) -> str:
        return f"{self.number:>4} {self.cell.kind}: {self.cell.target}"


def cells(outputs: list[str], without: tuple[str, ...] = ()) -> list[Cell]:
    """Return every cell, for the kinds of outputs of a pipeline; `without` kinds or targets that it has not."""
    found = [
        *(Cell(kind, who) for kind in ("SIGKILL", "SIGTERM", "SIGINT") for who in SIGNALLED),
        Cell("SIGKILL", "all, from the beginning"),
        *(Cell("disk full", when) for when in ("before the start", "in the midst")),
        *(Cell("read-only", where) for where in ("all, before the start", *FOLDERS)),
        *(Cell("two starts", which) for which in STARTS),
        *(Cell("server", how) for how in ("goes away and comes back", "goes away", "is away at the start")),
        *(
            Cell(kind, what)
            for kind in ("flip, time kept", "flip, new time")
            for what in (*outputs, *STATE_FILES)
        ),
        *(
            Cell("deletion", what)
            for what in (*outputs, *STATE_FILES, *STATE_PLACES, "output and its cached object")
        ),
    ]
    return [cell for cell in found if cell.kind not in without and cell.target not in without]


def faults(seed: int, available: list[Cell]) -> Iterator[Fault]:
    """Yield faults without end: first every cell once, then again and again those whose moment is random.

    Kinds take turns, so that few faults are of many kinds. A fault depends on the seed and its number alone.
    """
    chance = random.Random(seed)
    number = 0
    pending = available
    while True:
        for cell in _in_turns(pending, chance):
            yield Fault(seed, number, cell)
            number += 1
        pending = [cell for cell in available if cell.kind in TIMED]


def _in_turns(pending: list[Cell], chance: random.Random) -> Iterator[Cell]:
    """Yield all cells in random order, one of each kind after the other."""
    piles: dict[str, list[Cell]] = {}
    for cell in chance.sample(pending, len(pending)):
        piles.setdefault(cell.kind, []).append(cell)
    while piles:
        for kind in list(piles):
            yield piles[kind].pop()
            if not piles[kind]:
                del piles[kind]
