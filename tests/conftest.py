import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before any test imports torch: test processes side by side, each with a thread for every core, wait for each
# other's threads and take seven times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.support.tracking_project import python, write_project


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory) -> Path:
    """The file of an MLflow store that holds nothing but the experiment."""
    folder = tmp_path_factory.mktemp("fresh")
    done = python(folder, "-m", "medunifier.tracking", "prepare")
    assert done.returncode == 0, done.stderr
    return folder / "mlflow.db"


@pytest.fixture
def project(tmp_path, fresh_store, monkeypatch):
    """The working directory: a small project with an empty MLflow store, and no uploader in the background."""
    for variable in ("MLFLOW_TRACKING_URI", "RANK", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "DVC_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(
        "MEDUNIFIER_UPLOADER", "off"
    )  # `tests.support.stored_runs.send` uploads in this process
    folder = write_project(tmp_path / "project")
    shutil.copy(fresh_store, folder)
    database = sqlite3.connect(folder / "mlflow.db")
    database.execute("UPDATE experiments SET artifact_location = ?", ((folder / "mlartifacts").as_uri(),))
    database.commit()
    database.close()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def any_precision() -> Iterator[None]:
    """Let a test train at a precision of its own: Accelerate keeps a process at the first one."""
    from accelerate.state import AcceleratorState  # loads torch, which many tests do without

    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


# Whoever asks for one of these starts snakemake, dvc or mlflow.
STARTS_PROCESSES = {"fresh_template", "done_template", "fresh_store", "checkout"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as `workflow` by their fixtures."""
    for item in items:
        if STARTS_PROCESSES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.workflow)
