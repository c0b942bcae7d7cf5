"""Names, places, waiting times and the error that the tracking modules share."""

import os
import re
import time
from pathlib import Path

from medunifier.runtime.errors import InputError

EXPERIMENT = "medunifier"
DEFAULT_URI = "sqlite:///mlflow.db"
UPLOAD_COMMAND = "python -m medunifier.tracking upload"

# MLflow reads these when it is imported. A server that does not answer must not hold the uploader for minutes.
for _variable, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}.items():
    os.environ.setdefault(_variable, _value)

# Tags of the runs, besides those of `provenance`.
PARENT_TAG = "mlflow.parentRunId"
CONFIGURATION_TAG = "configuration"  # digest of params.yaml, on the parent run and its children
EXECUTION_TAG = "execution_id"  # the stage's own name for one of its executions
SOURCE_EXECUTION_TAG = "source_execution_id"  # of a reused stage: the execution that made the results
STATE_FOLDER_TAG = "state_folder"  # where the journal of a run lies


class StoreError(InputError):
    """The MLflow store cannot be used; the message names it, the reason and what to do."""


def store_uri() -> str:
    """Return the URI of the MLflow store in use."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def state_folder() -> Path:
    """Return the folder of journals, of the uploader's lock, status and log."""
    return Path(os.environ.get("MEDUNIFIER_STATE", ".state")) / "tracking"


def snakemake_lock() -> Path:
    """Return the lock file that the main snakemake process of this folder holds while it runs."""
    return state_folder().parent / "run.lock"


def patience() -> float:
    """Return the seconds to wait for a store that makes no progress; MEDUNIFIER_STORE_SECONDS overrides 30."""
    return float(os.environ.get("MEDUNIFIER_STORE_SECONDS", "30"))


def uploader_allowed() -> bool:
    """Return whether this process may start an uploader; MEDUNIFIER_UPLOADER=off forbids it."""
    return os.environ.get("MEDUNIFIER_UPLOADER", "on") != "off"


def metric_name(name: str) -> str:
    """Return `name` in the characters that MLflow allows: `retrieve@full` becomes `retrieve.full`."""
    return re.sub(r"[^\w./ :-]", "_", name.replace("@", "."))


def now() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
