"""What MLflow's store holds, read through MLflow's client; and an uploader in this process."""

from pathlib import Path

from medunifier.tracking.settings import PARENT_TAG, store_uri
from medunifier.tracking.store import Store
from medunifier.tracking.uploader import Uploader


def send() -> bool:
    """Bring all that journals hold into the store; return whether that was possible."""
    uploader = Uploader()
    uploader.look()
    return not uploader.look()


def store() -> Store:
    return Store(store_uri())


def runs(**tags: str):
    """Runs with these tags, children and parents, oldest first."""
    return store().find(tags)


def parents():
    """The run of each configuration, in order of creation."""
    return [run for run in store().find({"preset": "demo"}) if PARENT_TAG not in run.tags]


def children(parent):
    return store().find({PARENT_TAG: parent.run_id})


def run_of(execution: str):
    """The run of one execution of a stage."""
    (run,) = store().find({"execution_id": execution})
    return run


def history(run_id: str, key: str):
    """(step, value) of every point of a metric, in order of steps."""
    points = store().client.get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in points)


def data(run_id: str):
    """Parameters, tags and latest metrics of a run."""
    return store().client.get_run(run_id).data


def artifact(run_id: str, path: str) -> bytes:
    return Path(store().client.download_artifacts(run_id, path)).read_bytes()
