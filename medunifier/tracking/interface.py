"""What the tracking modules share: the operations of a store, its records, and the lock around them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from medunifier.runtime.errors import InputError

EXPERIMENT = "medunifier"
SLOW_START = (
    300.0  # seconds for what imports MLflow, which takes minutes when many do so at once on a busy node
)
DEFAULT_URI = "sqlite:///mlflow.db"
PARENT_TAG = "mlflow.parentRunId"


class StoreError(InputError):
    """The MLflow store cannot be used; the message says which, why and what to do."""


@dataclass(frozen=True)
class Point:
    """One value of a metric; `time` in milliseconds since 1970."""

    key: str
    value: float
    time: int
    step: int = 0


@dataclass(frozen=True)
class StoredRun:
    """A run as the store knows it."""

    run_id: str
    status: str  # RUNNING | FINISHED | FAILED | KILLED
    tags: Mapping[str, str] = field(default_factory=dict)


class Store(Protocol):
    """What both stores can do. Every operation raises StoreError."""

    def find(self, tags: Mapping[str, str]) -> list[StoredRun]:
        """Runs of the experiment that carry all these tags, oldest first."""

    def get(self, run_id: str) -> StoredRun | None:
        """One run, or None if the store does not hold it."""

    def create(self, name: str, tags: Mapping[str, str]) -> str:
        """Starts a run; returns its id."""

    def log(
        self, run_id: str, points: Sequence[Point], params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        """Adds metrics, parameters and tags; the same ones twice count once."""

    def set_status(self, run_id: str, status: str) -> None:
        """Sets the status; the end time is now, or none for RUNNING."""

    def add_artifact(self, run_id: str, path: Path, folder: str) -> None:
        """Copies a file among the run's artifacts."""


def store_uri() -> str:
    """The MLflow store in use."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def state_folder() -> Path:
    """Where journals and the lock live."""
    return Path(os.environ.get("MEDUNIFIER_STATE", ".state")) / "tracking"


def patience() -> float:
    """Seconds to wait for a store that others hold; MEDUNIFIER_STORE_SECONDS overrides 30."""
    return float(os.environ.get("MEDUNIFIER_STORE_SECONDS", "30"))


@contextmanager
def exclusive(timeout: float | None = None) -> Iterator[None]:
    """Holds the lock under which stages of this repository find or make runs."""
    from filelock import FileLock, Timeout

    path = state_folder() / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, is_singleton=True)  # a singleton may be taken again by its holder
    seconds = patience() if timeout is None else timeout
    try:
        with lock.acquire(timeout=seconds):
            yield
    except Timeout:
        raise StoreError(
            f"{path}: held by another stage for over {seconds:.0f} s; "
            "look for a hanging `python -m stages...`, end it, and run the same command again"
        ) from None


def metric_name(name: str) -> str:
    """`name` in the characters that MLflow allows: `retrieve@full` becomes `retrieve.full`."""
    return re.sub(r"[^\w./ :-]", "_", name.replace("@", "."))


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def deleted_experiment(experiment: int | str) -> StoreError:
    """The error for an experiment in MLflow's trash."""
    return StoreError(
        f"{store_uri()}: the experiment `{EXPERIMENT}` was deleted; bring it back: "
        f"mlflow experiments restore --experiment-id {experiment}"
    )
