"""The store: what MLflow's client writes once, what is refused, and that preparing it survives races and kills."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from mlflow.exceptions import MlflowException

from medunifier.tracking import Run
from medunifier.tracking.journal import Journal
from medunifier.tracking.settings import StoreError
from medunifier.tracking.store import Point, Store
from tests.support.stored_runs import children, data, history, parents, run_of, runs, send, store
from tests.support.tracking_project import execute, python, start

URI = "sqlite:///mlflow.db"


@pytest.mark.slow
@pytest.mark.workflow
def test_simultaneous_writers_make_one_fresh_store(tmp_path):
    writers = [start(tmp_path, "-m", "medunifier.tracking", "prepare") for _ in range(4)]
    for writer in writers:
        out, err = writer.communicate(timeout=300)
        assert (writer.returncode, out) == (0, f"{URI}: ready\n"), err
    experiment = Store(f"sqlite:///{tmp_path}/mlflow.db").client.get_experiment_by_name("medunifier")
    assert experiment.artifact_location == (tmp_path / "mlartifacts").as_uri()
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_the_same_twice_counts_once(project):
    """As a batch does whose acknowledgement was lost."""
    run = store().find_or_create("probe", {"execution_id": "1"}, {"mlflow.user": "u"}, 5)
    assert store().find_or_create("probe", {"execution_id": "1"}, {}, 5).run_id == run.run_id
    points = [
        Point("loss", 1.5, 10, 3),
        Point("loss", 2.5, 11, 2),
        Point("loss", 9.0, 9, 3),
        Point("m@1", 1, 10),
    ]
    (project / "image.png").write_bytes(b"png")
    for _ in range(2):
        store().log(run.run_id, points, {"betas": [0.9, 0.95], "none": None}, {"z": "y"})
        store().add_artifact(run.run_id, project / "image.png", "images")
    store().log(run.run_id, [*points[:2], Point("loss", 0.5, 12, 4)], {"betas": [0.9, 0.95]}, {"z": "y"})
    found = data(run.run_id)
    assert history(run.run_id, "loss") == [(2, 2.5), (3, 1.5), (3, 9.0), (4, 0.5)]
    assert found.metrics == {"loss": 0.5, "m.1": 1.0}
    assert found.params == {"betas": "[0.9, 0.95]", "none": "None"} and found.tags["z"] == "y"
    files = store().client.list_artifacts(run.run_id, "images")
    assert [(file.path, file.file_size) for file in files] == [("images/image.png", 3)]


def test_batches_larger_than_mlflow_allows(project):
    run = store().find_or_create("probe", {"execution_id": "1"}, {}, 5)
    points = [Point("loss", step / 7, 10 + step, step) for step in range(2500)]
    params = {f"p{number}": number for number in range(230)}
    store().log(run.run_id, points, params, {f"t{number}": "x" for number in range(120)})
    assert history(run.run_id, "loss") == [(step, step / 7) for step in range(2500)]
    assert len(data(run.run_id).params) == 230 and data(run.run_id).tags["t119"] == "x"


def test_a_creation_without_acknowledgement_makes_no_second_run(project, monkeypatch):
    """The server has made the run, but the answer is lost: once so that the client asks again, once for good."""
    mine = store()
    create = mine.client.create_run

    def twice(*args, **kwargs):
        create(*args, **kwargs)
        return create(*args, **kwargs)

    def lost(*args, **kwargs):
        create(*args, **kwargs)
        raise MlflowException("connection reset")

    monkeypatch.setattr(mine.client, "create_run", twice)
    run = mine.find_or_create("probe", {"execution_id": "1"}, {}, 5)
    assert [found.run_id for found in runs(execution_id="1")] == [run.run_id]
    monkeypatch.setattr(mine.client, "create_run", lost)
    with pytest.raises(StoreError, match="connection reset"):
        mine.find_or_create("probe", {"execution_id": "2"}, {}, 5)
    again = mine.find_or_create("probe", {"execution_id": "2"}, {}, 5)
    assert [found.run_id for found in runs(execution_id="2")] == [again.run_id]


def test_an_entry_that_mlflow_refuses_holds_up_no_other(project, capsys):
    run = store().find_or_create("probe", {"execution_id": "1"}, {}, 5)
    store().log(run.run_id, params={"a": 1})
    store().log(
        run.run_id, [Point("loss", 1.0, 1), Point("bad,name\n" * 60, 1.0, 1)], {"a": 2, "b": 3}, {"t": "u"}
    )
    found = data(run.run_id)
    assert found.params == {"a": "1", "b": "3"} and found.metrics == {"loss": 1.0} and found.tags["t"] == "u"
    assert "left out" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.workflow
def test_a_store_of_an_older_mlflow_is_brought_up_to_date(project):
    """As far back as one migration: by MLflow's own command."""
    execute("first", {"count": 1})
    assert send()
    database = sqlite3.connect("mlflow.db")
    (head,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    database.close()
    code = (
        "import sys; from alembic import command; from mlflow.store.db.utils import _get_alembic_config;"
        "config = _get_alembic_config(sys.argv[1]); command.downgrade(config, '-1')"
    )
    uri = f"sqlite:///{project / 'mlflow.db'}"
    down = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True, check=False)
    if down.returncode:
        pytest.skip(f"MLflow's last migration has no way back: {down.stderr.splitlines()[-1]}")
    done = python(project, "-m", "medunifier.tracking", "prepare")
    assert done.stdout == f"{URI}: ready\n", done.stderr
    database = sqlite3.connect("mlflow.db")
    assert database.execute("SELECT version_num FROM alembic_version").fetchone() == (head,)
    database.close()
    (run,) = runs(dvc_stage="first")
    assert history(run.run_id, "count") == [(0, 1.0)]


@pytest.mark.slow
@pytest.mark.workflow
def test_a_store_of_a_newer_mlflow_is_refused(project):
    database = sqlite3.connect("mlflow.db")
    database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    database.commit()
    database.close()
    shutil.copy("mlflow.db", "newer.db")
    done = python(project, "-m", "medunifier.tracking", "prepare", MLFLOW_TRACKING_URI="sqlite:///newer.db")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "newer.db" in done.stderr and "install the newer MLflow" in done.stderr


@pytest.mark.slow
@pytest.mark.workflow
def test_a_killed_preparation_leaves_no_half_made_store(tmp_path):
    for delay in (1.5, 3.0, 4.0, 5.0):
        process = start(tmp_path, "-m", "medunifier.tracking", "prepare")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "mlflow.db").exists() or Store(f"sqlite:///{tmp_path}/mlflow.db").experiment
    assert python(tmp_path, "-m", "medunifier.tracking", "prepare").returncode == 0
    assert Store(f"sqlite:///{tmp_path}/mlflow.db").experiment


def test_locked_store_is_refused_in_time(project, monkeypatch):
    monkeypatch.setenv("MEDUNIFIER_STORE_SECONDS", "0.3")
    database = sqlite3.connect("mlflow.db")
    database.execute("BEGIN EXCLUSIVE")
    begin = time.monotonic()
    with pytest.raises(StoreError, match=r"mlflow.db.*locked.*then run the same command again"):
        store()
    assert time.monotonic() - begin < 5
    database.close()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda db: db.write_bytes(b"no database at all" * 100), "damaged"),
        (lambda db: db.unlink() or db.mkdir(), "cannot be used"),
    ],
)
def test_unusable_store_is_refused(project, damage, message):
    damage(project / "mlflow.db")
    with pytest.raises(StoreError, match=message):
        store()


def test_deleted_experiment_is_refused(project):
    client = store().client
    client.delete_experiment(client.get_experiment_by_name("medunifier").experiment_id)
    with pytest.raises(StoreError, match="mlflow experiments restore"):
        store()


def test_unreachable_server_is_refused_in_time(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    message = "http://127.0.0.1:9.*start the server or correct MLFLOW_TRACKING_URI"
    with pytest.raises(StoreError, match=message):
        store()
    execute("first")  # the stage itself needs no server
    assert not send() and len(Journal.all()) == 1


def test_runs_that_the_user_deletes_stay_deleted_and_a_lost_store_is_filled_again(project, capsys):
    """A run in MLflow's trash is forgotten; a run that the store has never heard of is sent again, whole."""
    with Run.open("first") as run:
        run.curve(1, {"loss": 3.0})
        assert not send() or True
        (stored,) = runs(dvc_stage="first")
        store().client.delete_run(stored.run_id)
        run.curve(2, {"loss": 2.0})
        run.finish()
    assert send() and Journal.all() == []
    assert runs(dvc_stage="first") == [] and "was deleted" in capsys.readouterr().out

    with Run.open("third") as run:
        run.curve(1, {"loss": 3.0})
        send()
        progress = run.journal.progress
        run.journal.save_progress(progress | {"run_id": "0" * 32})  # as in a store that was made again
        run.curve(2, {"loss": 2.0})
        run.finish()
    assert send() and send()
    assert history(run_of(run.journal.about["execution_id"]).run_id, "loss") == [(1, 3.0), (2, 2.0)]
    assert {child.status for child in children(parents()[0])} == {"FINISHED"}
