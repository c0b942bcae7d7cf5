"""Soaks beside each other, each in a process and a folder of its own."""

from __future__ import annotations

import atexit
import multiprocessing
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tests.faults.catalogue import Fault, faults
from tests.faults.recovery import Outcome
from tests.faults.soak import Soak
from tests.faults.subjects import Subject

_soaks: list[Soak] = []  # the one of this worker


@dataclass(frozen=True)
class Done:
    """A fault, what came of it, what was done, how long that took, and how long the worker's undisturbed run took."""

    fault: Fault
    outcome: Outcome
    what: str
    seconds: float
    undisturbed_s: float


def run_faults(
    subject: Subject, folder: Path, seed: int, numbers: Iterable[int], jobs: int
) -> Iterator[Done]:
    """Run the faults of these numbers, `jobs` at a time, and yield each as it ends."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(subject, folder)) as pool:
        for future in as_completed([pool.submit(_run, seed, number) for number in numbers]):
            yield future.result()


def _begin(subject: Subject, folder: Path) -> None:
    soak = Soak(subject, Path(tempfile.mkdtemp(dir=folder)))
    _soaks.append(soak.__enter__())
    atexit.register(soak.__exit__)


def _run(seed: int, number: int) -> Done:
    (soak,) = _soaks
    fault = next(islice(faults(seed, soak.cells), number, None))
    return Done(fault, *soak.run(fault), soak.seconds)
