"""The uploader as a process: live curves, one for all, and everything once whatever is killed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest

from medunifier.runtime.file_locks import hold_until_exit
from medunifier.tracking import StoreError, background
from medunifier.tracking.journal import Journal
from medunifier.tracking.settings import snakemake_lock
from tests.support.stored_runs import artifact, history, parents, run_of, runs, send, store
from tests.support.tracking_project import execute, python, start, write_stage

pytestmark = [pytest.mark.slow, pytest.mark.workflow]
ON = {"MEDUNIFIER_UPLOADER": "on"}
LONG = """
import time
for step in range(1, 4000):  # the test ends it, however slow the machine
    run.curve(step, {"loss": 1 / step})
    time.sleep(0.25)
    if Path("end").exists():
        break
Path("a.png").write_bytes(b"1"); run.artifact("a.png", "images"); run.metrics({"steps": step})"""


def uploaders(folder: Path) -> list[psutil.Process]:
    """Uploader processes that work in the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if "medunifier.tracking" in process.cmdline() and process.cwd() == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return value


@pytest.fixture
def background_project(project):
    """The project, with uploaders allowed in the processes that it starts; none is left at the end."""
    yield project
    for process in uploaders(project):
        process.kill()


def test_curves_arrive_while_the_stage_works_and_the_uploader_ends_after_it(background_project):
    project = background_project
    write_stage(project, "first", LONG)
    stage = start(project, "first.py", **ON)
    (run,) = wait_for(lambda: runs(dvc_stage="first"))
    wait_for(lambda: history(run.run_id, "loss"))
    assert stage.poll() is None and run_of(run.tags["execution_id"]).status == "RUNNING"
    early = len(history(run.run_id, "loss"))
    wait_for(lambda: len(history(run.run_id, "loss")) > early)  # and go on arriving
    assert stage.poll() is None
    (project / "end").touch()
    _, err = stage.communicate(timeout=60)
    assert (stage.returncode, err) == (0, "")
    wait_for(lambda: not uploaders(project))
    assert Journal.all() == [] and run_of(run.tags["execution_id"]).status == "FINISHED"
    steps = int(json.loads((project / "results/metrics/first.json").read_text())["steps"])
    assert history(run.run_id, "loss") == [(step, 1 / step) for step in range(1, steps + 1)]
    assert artifact(run.run_id, "images/a.png") == b"1"
    log = (project / ".state/tracking/uploader.log").read_text()
    assert log.count("uploader, process") == 1 and log.endswith("ended\n")


def test_many_starts_at_once_give_one_uploader(background_project):
    project = background_project
    stages = [start(project, "second.py", "full", **ON) for _ in range(6)]
    for stage in stages:
        assert stage.communicate(timeout=60)[1] == ""
    wait_for(lambda: not uploaders(project))
    log = (project / ".state/tracking/uploader.log").read_text()
    assert log.count("uploader, process") == 1
    assert len(runs(dvc_stage="second@full")) == 6 and len(parents()) == 1 and Journal.all() == []


def test_a_stage_that_begins_as_the_uploader_ends_is_not_forgotten(background_project):
    """Short stages one after the other, each at a random moment of the life of the uploader."""
    project = background_project
    for number in range(4):
        assert python(project, "first.py", **ON).returncode == 0
        time.sleep(random.Random(number).uniform(3, 6))
    wait_for(lambda: not uploaders(project))
    assert len(runs(dvc_stage="first")) == 4 and Journal.all() == []


@pytest.mark.parametrize("seed", range(3))
def test_killed_uploaders_lose_nothing_and_send_nothing_twice(background_project, seed):
    project = background_project
    chosen = random.Random(seed)
    write_stage(project, "first", LONG)
    stage = start(project, "first.py", **ON)
    for _ in range(3):
        (process,) = wait_for(lambda: [p for p in uploaders(project) if p.ppid() != stage.pid][:1])
        time.sleep(chosen.uniform(0, 6))
        process.kill()
        process.wait(10)
        subprocess.Popen([sys.executable, "-m", "medunifier.tracking", "serve"], cwd=project).wait()
    (project / "end").touch()
    assert stage.communicate(timeout=60)[1] == ""
    done = python(project, "-m", "medunifier.tracking", "upload")
    assert done.returncode == 0, done.stderr
    assert_complete(project)


def assert_complete(project: Path) -> None:
    """Everything that the stage of LONG has reported is in the store, once."""
    (run,) = runs(dvc_stage="first")
    assert run.status == "FINISHED" and [parent.status for parent in parents()] == ["FINISHED"]
    steps = int(json.loads((project / "results/metrics/first.json").read_text())["steps"])
    assert history(run.run_id, "loss") == [(step, 1 / step) for step in range(1, steps + 1)]
    assert history(run.run_id, "steps") == history(parents()[0].run_id, "first/steps") == [(0, steps)]
    assert artifact(run.run_id, "images/a.png") == b"1" and Journal.all() == []


def test_killed_stage_and_uploader_then_upload(background_project):
    project = background_project
    write_stage(project, "first", LONG)
    stage = start(project, "first.py", **ON)
    wait_for(lambda: runs(dvc_stage="first"))
    stage.kill()
    stage.communicate()
    for process in uploaders(project):
        process.kill()
    done = python(project, "-m", "medunifier.tracking", "upload")
    assert done.stdout == "1 run(s) brought up to date in sqlite:///mlflow.db\n", done.stderr
    (run,) = runs(dvc_stage="first")
    (journal,) = Journal.all()
    values = [entry["curve"]["loss"] for entry, _ in journal.entries(0) if "curve" in entry]
    assert run.status == "KILLED" and [value for _, value in history(run.run_id, "loss")] == values
    assert python(project, "-m", "medunifier.tracking", "upload").stdout.startswith("0 run(s)")
    (project / "end").touch()
    assert python(project, "first.py").returncode == 0  # reports its first step, which is known, and ends
    assert send() and Journal.all() == []
    (run,) = runs(dvc_stage="first")
    assert run.status == "FINISHED" and [value for _, value in history(run.run_id, "loss")] == values


@pytest.fixture
def server(tmp_path):
    """Start and kill an MLflow server: `server.start()`, `server.kill()`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/s.db",
        "--artifacts-destination",
        str(folder / "a"),
    ]

    class Server:
        uri = f"http://127.0.0.1:{port}"
        process = None

        def start(self, wait=True):
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while wait:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    return
                except OSError:
                    time.sleep(0.2)

        def kill(self):
            if self.process is not None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    server = Server()
    yield server
    server.kill()


def test_a_server_that_is_killed_and_comes_back_gets_everything_once(background_project, server, monkeypatch):
    project = background_project
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    write_stage(project, "first", LONG)
    server.start()
    stage = start(project, "first.py", **ON)
    (run,) = wait_for(lambda: runs(dvc_stage="first"), 120)
    wait_for(lambda: history(run.run_id, "loss"))
    server.kill()
    wait_for(lambda: background.problem(server.uri))
    assert stage.poll() is None, "training goes on"
    server.start()
    early = len(history(run.run_id, "loss"))
    wait_for(lambda: len(history(run.run_id, "loss")) > early, 90)
    wait_for(lambda: background.problem(server.uri) is None)
    server.kill()
    (project / "end").touch()
    _, err = stage.communicate(timeout=60)
    assert stage.returncode == 0, err
    failed = python(project, "-m", "medunifier.tracking", "upload", MEDUNIFIER_STORE_SECONDS="5")
    assert failed.returncode == 1 and server.uri in failed.stderr and "start the server" in failed.stderr
    server.start()
    done = python(project, "-m", "medunifier.tracking", "upload")
    assert done.returncode == 0, done.stderr
    assert_complete(project)


def test_a_run_of_the_pipeline_is_refused_at_once_if_its_store_is(background_project, monkeypatch):
    """By snakemake, before anything is computed; a stage alone goes on and warns."""
    project = background_project
    monkeypatch.setenv("MEDUNIFIER_UPLOADER", "on")
    (project / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="damaged"):
        background.begin_run()
    assert Journal.all() == []
    write_stage(project, "first", "import time; time.sleep(8)")
    alone = python(project, "first.py")
    assert alone.returncode == 0
    assert "damaged" in alone.stderr and "python -m medunifier.tracking upload" in alone.stderr
    (project / "mlflow.db").unlink()
    background.begin_run()
    background.adopt(["first"])
    assert Journal.all() == [] and len(runs(dvc_stage="first")) == 1


def test_the_uploader_waits_for_snakemake_and_sends_its_last_words(background_project, monkeypatch):
    project = background_project
    monkeypatch.setenv("MEDUNIFIER_UPLOADER", "on")
    lock = hold_until_exit(snakemake_lock())
    background.begin_run()
    time.sleep(3)
    assert len(uploaders(project)) == 1, "more stages may come"
    execute("first", {"count": 1})
    background.adopt(["first"])
    assert Journal.all() == [] and len(runs(dvc_stage="first")) == 1
    lock.close()
    wait_for(lambda: not uploaders(project), 10)


def test_a_database_that_is_deleted_while_stages_run_is_made_and_filled_again(background_project):
    project = background_project
    write_stage(project, "first", LONG)
    stage = start(project, "first.py", **ON)
    (run,) = wait_for(lambda: runs(dvc_stage="first"))
    wait_for(lambda: history(run.run_id, "loss"))
    (project / "mlflow.db").unlink()
    time.sleep(1)
    (project / "end").touch()
    assert stage.communicate(timeout=60)[1] == ""
    wait_for(lambda: not uploaders(project))
    code = "from tests.unit.tracking import test_uploader as t; from pathlib import Path; t.assert_complete(Path('.'))"
    done = python(project, "-c", code)  # this process has the deleted file open
    assert done.returncode == 0, done.stderr


def test_the_page_of_a_configuration(background_project):
    """The address opens the view for training on a flat list of this configuration's runs."""
    execute("first")
    assert send()
    done = python(background_project, "-m", "medunifier.tracking", "page", "http://127.0.0.1:5000")
    path, _, query = urlsplit(done.stdout.strip()).fragment.partition("?")
    values = {key: value for key, (value,) in parse_qs(query).items()}
    assert path == f"/experiments/{store().experiment}/runs" and values["workflowType"] == "machine_learning"
    found = store().client.search_runs([store().experiment], values["searchFilter"])
    assert sorted(run.info.run_id for run in found) == sorted(
        [runs(dvc_stage="first")[0].run_id, parents()[0].run_id]
    )
