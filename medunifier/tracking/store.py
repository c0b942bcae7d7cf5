"""MLflow's store, through MLflow's own client. Importing this takes seconds: only the uploader and commands do.

Every method raises StoreError if the store cannot be used.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from medunifier.tracking.settings import EXPERIMENT, StoreError, metric_name, patience

MOST_METRICS, MOST_PARAMS, MOST_TAGS = 800, 100, 100  # of one batch; MLflow allows 1000 entries in all
# What MLflow answers to an entry that it will never take.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE")
ABANDONED = 3600.0  # seconds after which a half-made store belongs to nobody
KIND_TAG = (
    "mlflow.experimentKind",
    "custom_model_development",
)  # the pages for training, not for language agents


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


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def explain(uri: str, error: Exception) -> str:
    """Return the user's message for a failure of a store."""
    text = first_line(error)
    if "database is locked" in str(error):
        return locked_message(uri)
    if "not a database" in str(error) or "malformed" in str(error):
        return damaged_message(uri, text)
    return (
        f"{uri}: the MLflow store cannot be used: {text}; "
        "start the server or correct MLFLOW_TRACKING_URI, then run the same command again"
    )


def locked_message(where: object) -> str:
    """Return the message for a database that another program keeps locked."""
    return (
        f"{where}: the MLflow database is locked by another program; close it (an sqlite shell, a stopped "
        "`mlflow ui`: `fuser mlflow.db` names it), then run the same command again"
    )


def damaged_message(where: object, reason: str) -> str:
    """Return the message for a file that is no database any more."""
    return f"{where}: damaged ({reason}); move the file away and run the same command again"


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a plain `sqlite:///` URI, else None."""
    prefix = "sqlite:///"
    return Path(unquote(uri[len(prefix) :])) if uri.startswith(prefix) and "?" not in uri else None


def sqlite_uri(path: Path) -> str:
    """Return the URI of a SQLite file, independent of the working directory."""
    return f"sqlite:///{path.absolute()}"


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another that takes its name; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def artifact_location(path: Path) -> str:
    """Return where the artifacts of a SQLite store go: into a folder beside it."""
    return (path.absolute().parent / "mlartifacts").as_uri()


def prepare_sqlite(path: Path) -> None:
    """Make sure that the file holds the tables of the installed MLflow.

    Simultaneous processes each make a store under a temporary name; the first to finish gives it its name.
    """
    if not path.exists():
        create_sqlite(path)
        return
    check_sqlite(path)
    try:
        MlflowClient(sqlite_uri(path)).get_experiment_by_name(EXPERIMENT)
    except MlflowException as error:
        if "db upgrade" not in str(error):  # MLflow refuses an older schema and names the command
            raise StoreError(explain(str(path), error)) from error
        upgrade_sqlite(path)


def create_sqlite(path: Path) -> None:
    """Make a store with the experiment; whoever is killed meanwhile leaves no half-made one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.partial"):
        if time.time() - left.stat().st_mtime > ABANDONED:
            left.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        client = MlflowClient(sqlite_uri(partial))
        client.create_experiment(EXPERIMENT, artifact_location(path), dict([KIND_TAG]))
        with suppress(FileExistsError):  # another process has made the store meanwhile
            os.link(partial, path)
    except Exception as error:
        raise StoreError(f"{path}: MLflow could not make this store: {first_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def check_sqlite(path: Path) -> None:
    """Raise StoreError if the file cannot be read as a database within `patience()` seconds."""
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=patience())
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("PRAGMA schema_version").fetchone()
        finally:
            database.close()
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text:
            raise StoreError(locked_message(path)) from error
        if "not a database" in text or "malformed" in text:
            raise StoreError(damaged_message(path, text)) from error
        raise StoreError(
            f"{path}: the MLflow database cannot be used: {text}; check the disk and the file's permissions"
        ) from error


def inspect(uri: str) -> list[str]:
    """Return what is wrong with a store, without changing it: a SQLite file is looked at in a copy.

    Raises:
        StoreError: If it cannot be used at all.
    """
    path = sqlite_path(uri)
    if path is None:
        Store(uri)
        return []
    if not path.exists():  # the first run will make it
        return []
    check_sqlite(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        lacks = f"{path}: lacks the tables of the installed MLflow, or the experiment"
        try:
            found = MlflowClient(sqlite_uri(copy)).get_experiment_by_name(EXPERIMENT)
        except MlflowException as error:
            return [lacks if "db upgrade" in str(error) else explain(str(path), error)]
        return [] if found else [lacks]


def upgrade_sqlite(path: Path) -> None:
    """Bring the tables to the schema of the installed MLflow, by MLflow's own command."""
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", sqlite_uri(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        newer = "Can't locate revision" in reason
        advice = "install the newer MLflow that wrote it, or " if newer else ""
        raise StoreError(
            f"{path}: MLflow could not bring this store up to date: {reason}; "
            f"{advice}move the file away and run the same command again"
        )
