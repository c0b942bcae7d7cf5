"""Any MLflow store, through MLflow's own client."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medunifier.tracking.interface import (
    EXPERIMENT,
    SLOW_START,
    Point,
    StoredRun,
    StoreError,
    deleted_experiment,
    exclusive,
    metric_name,
)

# A server that does not answer must not hold a stage for MLflow's default of minutes.
CLIENT_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


class ClientStore:
    """Any store that MLflow's own client can reach."""

    def __init__(self, uri: str) -> None:
        for variable, value in CLIENT_DEFAULTS.items():
            os.environ.setdefault(variable, value)
        from mlflow.tracking import MlflowClient

        self.uri = uri
        with exclusive(SLOW_START), self.explained():
            self.client = MlflowClient(uri)
            experiment = self.client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                self.experiment = self.client.create_experiment(EXPERIMENT)
            elif experiment.lifecycle_stage == "active":
                self.experiment = experiment.experiment_id
            else:
                raise deleted_experiment(experiment.experiment_id)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns what MLflow, its HTTP client or its database driver raise into a StoreError."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise StoreError(
                f"{self.uri}: the MLflow store cannot be used: {reason}; "
                "start the server or correct MLFLOW_TRACKING_URI, then run the same command again"
            ) from error

    def find(self, tags: Mapping[str, str]) -> list[StoredRun]:
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found: list[StoredRun] = []
        token = None
        with self.explained():
            while True:
                page = self.client.search_runs(
                    [self.experiment], query, order_by=["attributes.start_time ASC"], page_token=token
                )
                found += [StoredRun(run.info.run_id, run.info.status, run.data.tags) for run in page]
                token = page.token
                if not token:
                    return found

    def get(self, run_id: str) -> StoredRun | None:
        from mlflow.exceptions import MlflowException

        with self.explained():
            try:
                run = self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
            return StoredRun(run_id, run.info.status, run.data.tags)

    def create(self, name: str, tags: Mapping[str, str]) -> str:
        with self.explained():
            return self.client.create_run(self.experiment, run_name=name, tags=dict(tags)).info.run_id

    def log(
        self, run_id: str, points: Sequence[Point], params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(metric_name(p.key), float(p.value), p.time, p.step) for p in points]
        parameters = [Param(key, str(value)) for key, value in params.items()]
        marks = [RunTag(key, str(value)) for key, value in tags.items()]
        with self.explained():
            while (
                metrics or parameters or marks
            ):  # a batch holds at most 1000 entries, 100 of them parameters
                self.client.log_batch(run_id, metrics[:800], parameters[:100], marks[:100])
                del metrics[:800], parameters[:100], marks[:100]

    def set_status(self, run_id: str, status: str) -> None:
        with self.explained():
            if status == "RUNNING":
                self.client.update_run(run_id, status)
            else:
                self.client.set_terminated(run_id, status)

    def add_artifact(self, run_id: str, path: Path, folder: str) -> None:
        with self.explained():
            self.client.log_artifact(run_id, str(path), folder or None)
