"""A stage's run: what it reports goes to the results folder and, by way of a journal, to MLflow."""

from __future__ import annotations

import math
import os
import platform
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from medunifier.runtime.dvc_pipeline import Pipeline, digest
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import write_json
from medunifier.tracking import background, configuration, costs, provenance
from medunifier.tracking.journal import Journal
from medunifier.tracking.settings import (
    CONFIGURATION_TAG,
    EXECUTION_TAG,
    STATE_FOLDER_TAG,
    now,
    state_folder,
    store_uri,
)


def finite(values: Mapping[str, float], run_name: str) -> dict[str, float]:
    """Return `values` as plain ints and floats.

    Raises:
        InputError: Naming the first that is not a finite number.
    """
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
    """A run without MLflow: final metrics go to `FOLDER/NAME.json`, or, without a folder, nowhere.

    Attributes:
        name: The stage, as in dvc.yaml.
        signature: Digest of what determines the stage's result: command, parameters and inputs. What a stage
            keeps between executions (checkpoints) belongs to one signature.
        final: The final metrics reported so far.
    """

    def __init__(self, name: str, folder: str | Path | None, signature: str = "local") -> None:
        self.name = name
        self.signature = signature
        self.metrics_path = None if folder is None else Path(folder) / f"{name}.json"
        self.final: dict[str, float] = {}

    def curve(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics that belong to one step of training.

        Raises:
            InputError: On a NaN or infinity.
        """
        self.record(step=int(step), curve=finite(values, self.name))

    def metrics(self, values: Mapping[str, float]) -> None:
        """Add final metrics; several calls are merged.

        Raises:
            InputError: On a NaN or infinity.
        """
        plain = finite(values, self.name)
        self.final |= plain
        self.write_metrics()
        self.record(metrics=plain)

    def artifact(self, path: str | Path, folder: str = "", *, private: bool = False) -> None:
        """Record a file (image, CSV) in `folder` of the run's artifacts.

        Args:
            path: The file.
            folder: Of the run's artifacts.
            private: It holds texts, ids or images of a private data set: it is not recorded, and the log says so.

        Raises:
            InputError: If the file does not exist.
        """
        if private:
            self.log(f"{path} is not sent to MLflow: it shows a private data set")
            return
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file to record as an artifact of {self.name}")
        self.record(artifact=Path(path), folder=folder)

    def params(self, values: Mapping[str, Any]) -> None:
        """Record parameters besides those that dvc.yaml declares for the stage."""
        self.record(params=dict(values))

    def log(self, text: str) -> None:
        """Print one line of progress."""
        print(f"[{self.name}] {text}", flush=True)

    def finish(self) -> None:
        """Write the metrics file, even if the stage reported none."""
        self.write_metrics()

    def write_metrics(self) -> None:
        """Write the final metrics reported so far."""
        if self.metrics_path is not None:
            write_json(self.metrics_path, dict(sorted(self.final.items())), shared=True)

    def record(self, **entry: Any) -> None:
        """Take a report besides the metrics file: here it goes nowhere."""


class SilentRun(LocalRun):
    """The run in the processes of a distributed stage other than the first: reports nothing."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """Check the metrics."""
        finite(values, self.name)

    def log(self, text: str) -> None:
        """Print nothing."""

    def finish(self) -> None:
        """Write nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Run(LocalRun):
    """A stage's run in MLflow, a child of the present configuration's run.

    Reports go to a journal on disk. The uploader, a process of its own, sends it to MLflow's store while the stage
    works; whatever becomes of the store or the uploader, the stage goes on.
    """

    def __init__(self, name: str, folder: Path | None, journal: Journal, record_path: Path) -> None:
        super().__init__(name, folder, journal.about["signature"])
        self.journal = journal
        self.record_path = record_path
        self.keeper = None if background.is_under_snakemake() else background.Keeper()

    @classmethod
    def open(cls, name: str, pipeline: Pipeline | None = None) -> Run | SilentRun:
        """Begin the run of stage `name`, or continue it if this very execution was killed before.

        Args:
            name: The stage.
            pipeline: Of the present folder; None: it is read.

        Raises:
            InputError: If dvc.yaml has no such stage.
        """
        pipeline = pipeline or Pipeline()
        if name not in pipeline.stages:
            known = ", ".join(pipeline.stages)
            raise InputError(f"dvc.yaml has no stage `{name}` with this params.yaml; it has {known}")
        signature = pipeline.signature(name)
        if int(os.environ.get("RANK", "0")) > 0:
            return SilentRun(name, None, signature)
        journal = killed_execution(name, digest(pipeline.parameters), signature)
        if journal is None:
            journal = Journal.create(about_execution(pipeline, name, signature))
            journal.append(params=pipeline.stage_parameters(name))
        reused = configuration.reused_stages(pipeline, pipeline.upstream(name), only_unchanged=True)
        if reused:
            journal.append(reused=reused)
        # A stage that reads results/metrics as a whole declares no metrics file: it would change its own input.
        outputs = pipeline.stages[name].outputs
        folder = configuration.METRICS if f"results/metrics/{name}.json" in outputs else None
        run = cls(name, folder, journal, costs.record_path(name, outputs))
        journal.append(status="RUNNING", caller=None if run.keeper is None else calling_dvc())
        if run.keeper is not None:
            background.start()
        return run

    def finish(self) -> None:
        """Write the final metrics, none included, and the record of this execution: the last act of a stage."""
        super().finish()
        about = self.journal.about
        record = {
            "execution_id": about["execution_id"],
            "stage": self.name,
            "signature": self.signature,
            "configuration": about["configuration"]["digest"],
            "started": about["started"],
            "ended": now(),
            "git_commit": about["tags"]["git_commit"],
            "costs": costs.measure(),
            "node": platform.node(),
            "slurm_job_id": provenance.slurm_job_id(),
        } | costs.tags()
        write_json(self.record_path, record, shared=True)
        write_json(costs.history() / f"{self.name}.json", record, shared=True)

    def record(self, **entry: Any) -> None:
        """Append a report to the journal."""
        if "curve" in entry:
            self.journal.append_curve(entry["step"], entry["curve"])
            if self.keeper is not None:
                self.keeper.check()
        elif "artifact" in entry:
            self.journal.append_artifact(entry["artifact"], entry["folder"])
        else:
            self.journal.append(**entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the run; an error that ends the block goes on, and leaves the run FAILED or KILLED."""
        failed = "FAILED" if isinstance(error, Exception) else "KILLED"  # KILLED: SIGTERM, SIGINT
        status = "FINISHED" if error is None else failed
        spent = {f"system/{name}": value for name, value in costs.measure().items()}
        self.journal.append(costs=spent, tags=costs.tags(), status=status)
        self.journal.release()
        if self.keeper is not None:
            background.start()
            if text := background.warning(self.name, self.journal.about["uri"]):
                print(text, file=sys.stderr, flush=True)


def about_execution(pipeline: Pipeline, name: str, signature: str) -> dict[str, Any]:
    """Return what the journal of a new execution of a stage says of it (see `Journal`)."""
    described = configuration.describe(pipeline)
    execution_id = uuid.uuid4().hex
    tags = provenance.tags(name, signature) | {
        EXECUTION_TAG: execution_id,
        CONFIGURATION_TAG: described["digest"],
        STATE_FOLDER_TAG: str(state_folder().absolute()),
    }
    return {
        "uri": store_uri(),
        "configuration": described,
        "stage": name,
        "execution_id": execution_id,
        "signature": signature,
        "started": costs.started(),
        "tags": tags,
    }


def killed_execution(stage: str, configuration_digest: str, signature: str) -> Journal | None:
    """Return the claimed journal of an execution of the same work that was killed, to be continued; or None."""
    for journal in reversed(Journal.all(stage)):
        about = journal.about
        known = (about["configuration"]["digest"], about["signature"], about["uri"])
        if known != (configuration_digest, signature, store_uri()):
            continue
        if journal.claim():
            if not journal.ended:
                return journal
            journal.release()
    return None


def calling_dvc() -> dict[str, Any] | None:
    """Return host, process id and start time of the `dvc` that runs this stage, for which the uploader waits."""
    if "DVC_ROOT" not in os.environ:
        return None
    try:
        for process in psutil.Process().parents():
            if any(Path(word).name == "dvc" for word in process.cmdline()):
                return {"host": platform.node(), "pid": process.pid, "created": process.create_time()}
    except psutil.Error:
        pass
    return None
