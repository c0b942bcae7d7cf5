"""MLflow's store, through MLflow's own client. Importing this takes seconds: only the uploader and commands do.

Every method raises StoreError if the store cannot be used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from medunifier.tracking.settings import EXPERIMENT, StoreError, metric_name
from medunifier.tracking.sqlite_file import (
    KIND_TAG,
    artifact_location,
    explain,
    file_identity,
    first_line,
    inspect_sqlite,
    prepare_sqlite,
    sqlite_path,
    sqlite_uri,
)

MOST_METRICS, MOST_PARAMS, MOST_TAGS = 800, 100, 100  # of one batch; MLflow allows 1000 entries in all
# What MLflow answers to an entry that it will never take.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE")


class StoreReplacedError(Exception):
    """Another file has taken the place of the database, or none: MLflow's client, which keeps it open, is of no use."""


class RunMissingError(StoreError):
    """The store works, but does not hold the run any more, or holds it in its trash (`deleted`)."""

    def __init__(self, message: str, *, deleted: bool) -> None:
        super().__init__(message)
        self.deleted = deleted


@dataclass(frozen=True)
class Point:
    """One value of a metric; `time` in milliseconds since 1970."""

    key: str
    value: float
    time: int
    step: int = 0


@dataclass(frozen=True)
class StoredRun:
    """A run as the store knows it; times in milliseconds since 1970."""

    run_id: str
    status: str  # RUNNING | FINISHED | FAILED | KILLED
    started: int
    ended: int | None
    tags: Mapping[str, str] = field(default_factory=dict)


class Store:
    """The experiment `medunifier` in one MLflow store, prepared if need be: tables, migrations, experiment."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.path = sqlite_path(uri)
        self.file = None  # which file the path stood for
        if self.path is not None:
            prepare_sqlite(self.path)
            self.file = file_identity(self.path)
        with self.explained():
            self.client = MlflowClient(uri if self.path is None else sqlite_uri(self.path))
            self.experiment = self._find_experiment()

    def check_identity(self) -> None:
        """Raise StoreReplacedError if the database has been removed or replaced since it was opened."""
        if self.path is not None and file_identity(self.path) != self.file:
            raise StoreReplacedError(f"{self.path}: has been removed or replaced")

    def _find_experiment(self) -> str:
        """Return the experiment's id; make it if it is missing."""
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            return self._create_experiment()
        if found.lifecycle_stage != "active":
            raise StoreError(
                f"{self.uri}: the experiment `{EXPERIMENT}` was deleted; bring it back: "
                f"mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        if KIND_TAG[0] not in found.tags:
            self.client.set_experiment_tag(found.experiment_id, *KIND_TAG)
        return found.experiment_id

    def _create_experiment(self) -> str:
        location = None if self.path is None else artifact_location(self.path)
        try:
            return self.client.create_experiment(EXPERIMENT, location, dict([KIND_TAG]))
        except MlflowException as error:
            found = self.client.get_experiment_by_name(EXPERIMENT)
            if found is None or error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return found.experiment_id

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what MLflow, its HTTP client or its database driver raise into a StoreError."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(explain(self.uri, error)) from error

    def find(self, tags: Mapping[str, str]) -> list[StoredRun]:
        """Return the runs of the experiment that carry all these tags, oldest first."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found: list[StoredRun] = []
        token = None
        with self.explained():
            while True:
                page = self.client.search_runs(
                    [self.experiment], query, order_by=["attributes.start_time ASC"], page_token=token
                )
                found += map(stored, page)
                token = page.token
                if not token:
                    return sorted(found, key=lambda run: (run.started, run.run_id))

    def get(self, run_id: str) -> StoredRun | None:
        """Return one run, or None if the store does not hold it or holds it in its trash."""
        with self.explained():
            try:
                run = self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
            return stored(run) if run.info.lifecycle_stage == "active" else None

    def find_or_create(
        self, name: str, key: Mapping[str, str], tags: Mapping[str, str], started: int
    ) -> StoredRun:
        """Return the run with the tags `key`; if there is none, create it with these and `tags`.

        A creation that the store carried out but did not acknowledge is found again, and of two that crossed each
        other (of two uploaders, or of a repeated request) one is deleted.
        """
        found = self.find(key)
        if not found:
            with self.explained():
                self.client.create_run(
                    self.experiment, start_time=started, tags={**tags, **key}, run_name=name
                )
            found = self.find(key)
        for double in found[1:]:
            with self.explained():
                self.client.delete_run(double.run_id)
        return found[0]

    def log(
        self,
        run_id: str,
        points: Sequence[Point] = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add metrics, parameters and tags; the same ones twice count once.

        Raises:
            RunMissingError: If the run is gone.
        """
        metrics = [Metric(metric_name(p.key), float(p.value), p.time, p.step) for p in points]
        parameters = [Param(key, str(value)) for key, value in (params or {}).items()]
        marks = [RunTag(key, str(value)) for key, value in (tags or {}).items()]
        while metrics or parameters or marks:
            batch = metrics[:MOST_METRICS], parameters[:MOST_PARAMS], marks[:MOST_TAGS]
            with self._missing(run_id), self.explained():
                try:
                    self.client.log_batch(run_id, *batch)
                except MlflowException as error:
                    if error.error_code not in REFUSALS or self.get(run_id) is None:
                        raise
                    self._log_one_by_one(run_id, *batch)
            del metrics[:MOST_METRICS], parameters[:MOST_PARAMS], marks[:MOST_TAGS]

    def _log_one_by_one(
        self, run_id: str, metrics: list[Metric], params: list[Param], tags: list[RunTag]
    ) -> None:
        """Log a refused batch entry by entry: one that MLflow does not take must not hold up the others."""
        single = [([m], [], []) for m in metrics] + [([], [p], []) for p in params]
        for part in single + [([], [], [t]) for t in tags]:
            try:
                self.client.log_batch(run_id, *part)
            except MlflowException as error:
                if error.error_code not in REFUSALS:
                    raise
                print(f"{self.uri}, run {run_id}: an entry is left out: {first_line(error)}", flush=True)

    @contextmanager
    def _missing(self, run_id: str) -> Iterator[None]:
        """Turn a failure into RunMissingError if it comes from a run that the store does not hold."""
        try:
            yield
        except StoreError as error:
            cause = error.__cause__
            if not isinstance(cause, MlflowException):
                raise
            if cause.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise RunMissingError(f"{self.uri}: holds no run {run_id}", deleted=False) from error
            if cause.error_code in REFUSALS and self.get(run_id) is None:
                raise RunMissingError(f"{self.uri}: run {run_id} was deleted", deleted=True) from error
            raise

    def set_status(self, run_id: str, status: str, ended: int) -> None:
        """Set the status, and the end time unless the status is RUNNING.

        Raises:
            RunMissingError: If the run is gone.
        """
        with self._missing(run_id), self.explained():
            if status == "RUNNING":
                self.client.update_run(run_id, status)
            else:
                self.client.set_terminated(run_id, status, ended)

    def add_artifact(self, run_id: str, path: Path, folder: str) -> None:
        """Copy a file among the run's artifacts, in place of one with the same name."""
        with self._missing(run_id), self.explained():
            self.client.log_artifact(run_id, str(path), folder or None)


def stored(run: Run) -> StoredRun:
    """Return a run of MLflow as the other modules know it."""
    return StoredRun(run.info.run_id, run.info.status, run.info.start_time, run.info.end_time, run.data.tags)


def inspect(uri: str) -> list[str]:
    """Return what is wrong with a store, without changing it.

    Raises:
        StoreError: If it cannot be used at all.
    """
    path = sqlite_path(uri)
    if path is not None:
        return inspect_sqlite(path)
    Store(uri)
    return []
