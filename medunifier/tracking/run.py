"""What a stage holds while it works: it reports, and the reports reach MLflow and the results folder."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medunifier.runtime.dvc_pipeline import Pipeline
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import atomic_path
from medunifier.tracking import costs, provenance
from medunifier.tracking.configurations import adopt_under, find_parent
from medunifier.tracking.interface import PARENT_TAG, Store, StoreError, exclusive, store_uri
from medunifier.tracking.journal import Journal
from medunifier.tracking.leftovers import retire
from medunifier.tracking.store import open_store

METRICS = Path("results/metrics")
SEND_EVERY = 10.0  # seconds between batches; a stage shorter than this sends once, at its end


def write_json(path: Path, content: Any) -> None:
    """Writes JSON with sorted keys, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
        )


def finite(values: Mapping[str, float], run_name: str) -> dict[str, float]:
    """`values` as plain ints and floats; InputError names the first that is not a finite number."""
    plain = {}
    for name, value in values.items():
        number = int(value) if hasattr(value, "__index__") else float(value)
        if not math.isfinite(number):
            raise InputError(
                f"{run_name}: metric `{name}` is {number}, not a finite number; "
                "look at the curves in results/curves, and lower the learning rate if a loss has diverged"
            )
        plain[name] = number
    return plain


class LocalRun:
    """What a stage reports, without MLflow: final metrics go to `FOLDER/NAME.json`, or, without a folder, nowhere.

    `signature` is a digest of what determines the stage's result: command, parameters, inputs. What a stage
    keeps between executions (checkpoints) belongs to one signature.
    """

    def __init__(self, name: str, folder: str | Path | None, signature: str = "local") -> None:
        self.name = name
        self.signature = signature
        self.metrics_path = None if folder is None else Path(folder) / f"{name}.json"
        self.final: dict[str, float] = {}

    def curve(self, step: int, values: Mapping[str, float]) -> None:
        """Records metrics that belong to one step of training. InputError on a NaN or infinity."""
        self.record(step=int(step), curve=finite(values, self.name))

    def metrics(self, values: Mapping[str, float]) -> None:
        """Adds final metrics; several calls are merged. InputError on a NaN or infinity."""
        plain = finite(values, self.name)
        self.final |= plain
        self.write_metrics()
        self.record(metrics=plain)

    def artifact(self, path: str | Path, folder: str = "") -> None:
        """Records a file (image, CSV) in `folder` of the run; InputError if it does not exist."""
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file to record as an artifact of {self.name}")
        self.record(artifact=Path(path), folder=folder)

    def params(self, values: Mapping[str, Any]) -> None:
        """Records parameters besides those that dvc.yaml declares for the stage."""
        self.record(params=dict(values))

    def log(self, text: str) -> None:
        """Prints one line of progress."""
        print(f"[{self.name}] {text}", flush=True)

    def finish(self) -> None:
        """Writes the metrics file, even if the stage reported none."""
        self.write_metrics()

    def write_metrics(self) -> None:
        """Writes the final metrics reported so far."""
        if self.metrics_path is not None:
            write_json(self.metrics_path, self.final)

    def record(self, **entry: Any) -> None:
        """Where reports go besides the metrics file: nowhere."""


class SilentRun(LocalRun):
    """The run of the processes of a distributed stage other than the first: reports nothing."""

    def metrics(self, values: Mapping[str, float]) -> None:
        finite(values, self.name)

    def log(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Run(LocalRun):
    """A stage's run in MLflow, a child of the present configuration's run.

    Reports go to a journal on disk; a thread sends it every SEND_EVERY seconds, and the end sends the rest.
    If the store fails meanwhile, the stage goes on, and a warning tells how to send the rest later.
    """

    def __init__(
        self, name: str, folder: Path | None, store: Store, journal: Journal, record_path: Path
    ) -> None:
        super().__init__(name, folder, journal.about["signature"])
        self.store = store
        self.journal = journal
        self.record_path = record_path
        self.warned = False
        self.stop = threading.Event()
        self.sender = threading.Thread(target=self.send_at_intervals, daemon=True, name="mlflow-sender")

    @classmethod
    def open(cls, name: str) -> Run | SilentRun:
        """The run of stage `name`, begun, or continued if this very execution was killed before.

        Raises InputError if dvc.yaml has no such stage, and StoreError, within a bounded time, if the MLflow
        store is locked or cannot be reached.
        """
        pipeline = Pipeline()
        if name not in pipeline.stages:
            known = ", ".join(pipeline.stages)
            raise InputError(f"dvc.yaml has no stage `{name}` with this params.yaml; it has {known}")
        signature = pipeline.signature(name)
        if int(os.environ.get("RANK", "0")) > 0:
            return SilentRun(name, None, signature)
        store = open_store()
        with exclusive():
            parent_id = find_parent(store, pipeline)
            adopt_under(store, parent_id, pipeline, pipeline.upstream(name), only_unchanged=True)
            journal = killed_execution(store, name, parent_id, signature)
            if journal is None:
                run_id = store.create(name, provenance.tags(name, signature) | {PARENT_TAG: parent_id})
                journal = Journal.create(name, run_id, parent_id, signature, store_uri())
                journal.claim()
                journal.append(params=pipeline.stage_parameters(name))
            journal.append(status="RUNNING")
            journal.send(store)
            close_lost(store, name, parent_id)
        # A stage that reads results/metrics as a whole declares no metrics file: it would change its own input.
        outputs = pipeline.stages[name].outputs
        folder = METRICS if f"results/metrics/{name}.json" in outputs else None
        return cls(name, folder, store, journal, costs.record_path(name, outputs))

    def finish(self) -> None:
        """Writes the final metrics, none included, and which run this was and what it cost: the last act of a stage."""
        super().finish()
        about = {
            "run_id": self.journal.about["run_id"],
            "stage": self.name,
            "costs": costs.measure(),
        }
        about |= {"node": platform.node(), "slurm_job_id": provenance.slurm_job_id()} | costs.tags()
        write_json(self.record_path, about)
        write_json(costs.history() / f"{self.name}.json", about)

    def record(self, **entry: Any) -> None:
        """Appends a report to the journal."""
        if "curve" in entry:
            self.journal.append_curve(entry["step"], entry["curve"])
        elif "artifact" in entry:
            self.journal.append_artifact(entry["artifact"], entry["folder"])
        else:
            self.journal.append(**entry)

    def send_at_intervals(self) -> None:
        while not self.stop.wait(SEND_EVERY):
            self.attempt(self.journal.send)

    def attempt(self, action: Callable[[Store], object]) -> bool:
        """Does something with the store; False, after one warning, if the store refuses."""
        try:
            action(self.store)
            return True
        except StoreError as error:
            if not self.warned:
                print(
                    f"[{self.name}] warning: {error}\n[{self.name}] the stage goes on and its results are written; "
                    "send its record to MLflow later: python -m medunifier.tracking upload",
                    file=sys.stderr,
                    flush=True,
                )
            self.warned = True
            return False

    def __enter__(self) -> Self:
        self.sender.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the run; an error that ends the block goes on, and leaves the run FAILED or KILLED."""
        self.stop.set()
        self.sender.join()
        if error is None:
            status = "FINISHED"
        else:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"  # SIGTERM, SIGINT
        spent = {f"system/{name}": value for name, value in costs.measure().items()}
        self.journal.append(costs=spent, tags=costs.tags())
        self.journal.append(status=status)
        sent = self.attempt(self.journal.send)
        ended = self.journal.ended
        self.journal.release()
        if sent and ended:
            self.journal.remove()
        if status == "FINISHED" and sent:
            self.attempt(lambda store: retire(self.name, store))


def killed_execution(store: Store, stage: str, parent_id: str, signature: str) -> Journal | None:
    """The claimed journal of an execution of the same work that was killed, to be continued; or None."""
    for journal in reversed(Journal.all(stage)):
        about = journal.about
        same = (about["parent_id"], about["signature"], about["uri"]) == (parent_id, signature, store_uri())
        if same and not journal.ended and store.get(about["run_id"]) is not None and journal.claim():
            return journal
    return None


def close_lost(store: Store, stage: str, parent_id: str) -> None:
    """Marks runs of the stage as killed that have no journal: nobody will ever end them."""
    known = {journal.about["run_id"] for journal in Journal.all(stage)}
    for run in store.find({PARENT_TAG: parent_id, "dvc_stage": stage}):
        if run.status == "RUNNING" and run.run_id not in known:
            store.set_status(run.run_id, "KILLED")
