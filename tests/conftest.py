import os
import shutil
import sqlite3

import pytest

# Before any test imports torch: test processes side by side, each with a thread for every core, wait for each
# other's threads and take seven times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.support.tracking_project import start, write_project


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory):
    """A store made by several writers at once on an empty folder: (folder, what they printed)."""
    folder = tmp_path_factory.mktemp("fresh")
    writers = [start(folder, "-m", "medunifier.tracking", "prepare") for _ in range(4)]
    return folder, [(*writer.communicate(timeout=300), writer.returncode) for writer in writers]


@pytest.fixture
def project(tmp_path, fresh_store, monkeypatch):
    """The working directory: a small project with an empty MLflow store."""
    for variable in ("MLFLOW_TRACKING_URI", "RANK", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(variable, raising=False)
    folder = write_project(tmp_path / "project")
    shutil.copy(fresh_store[0] / "mlflow.db", folder)
    database = sqlite3.connect(folder / "mlflow.db")
    database.execute("UPDATE experiments SET artifact_location = ?", ((folder / "mlartifacts").as_uri(),))
    database.commit()
    database.close()
    monkeypatch.chdir(folder)
    return folder
