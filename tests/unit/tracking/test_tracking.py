import json
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from medunifier.runtime.dvc_pipeline import Pipeline
from medunifier.runtime.errors import InputError
from medunifier.tracking import LocalRun, Run, StoreError, adopt
from medunifier.tracking.client_store import ClientStore
from medunifier.tracking.configurations import up_to_date_stages
from medunifier.tracking.interface import PARENT_TAG, Point
from medunifier.tracking.journal import Journal
from medunifier.tracking.leftovers import upload
from medunifier.tracking.store import open_store
from tests.support.tracking_project import python, set_parameter, start, write_stage


def execute(name, metrics=(), curve=()):
    """One execution of a stage in this process; returns its run id."""
    with Run.open(name) as run:
        for step, values in curve:
            run.curve(step, values)
        run.metrics(dict(metrics))
        run.finish()
    return json.loads(Path(f"results/runs/{name}.json").read_text())["run_id"]


def history(run_id, key):
    """(step, value) of every point of a metric in the store."""
    database = sqlite3.connect("mlflow.db")
    rows = database.execute(
        "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step", (run_id, key)
    ).fetchall()
    database.close()
    return rows


def parents():
    return [run for run in open_store().find({"preset": "demo"}) if PARENT_TAG not in run.tags]


def test_simultaneous_writers_make_one_fresh_store(fresh_store):
    folder, outcomes = fresh_store
    assert [code for *_, code in outcomes] == [0] * 4, outcomes
    database = sqlite3.connect(folder / "mlflow.db")
    rows = database.execute(
        "SELECT name, artifact_location FROM experiments WHERE experiment_id > 0"
    ).fetchall()
    assert rows == [("medunifier", (folder / "mlartifacts").as_uri())]


def test_sqlite_store_writes_what_mlflow_writes(project):
    """The direct way into SQLite and MLflow's client, fed alike, read back alike by MLflow's client."""
    direct, client = open_store(), ClientStore("sqlite:///mlflow.db")
    assert type(direct).__name__ == "SqliteStore"
    (project / "image.png").write_bytes(b"png")
    seen = []
    for store in (direct, client):
        run_id = store.create("probe", {"mlflow.user": "u", "kind": type(store).__name__})
        points = [
            Point("loss", 1.5, 10, 3),
            Point("loss", 2.5, 11, 2),
            Point("loss", 9.0, 9, 3),
            Point("m@1", 1, 10),
        ]
        store.log(run_id, points, {"betas": [0.9, 0.95], "none": None}, {"z": "y"})
        store.log(run_id, points[:2], {"betas": [0.9, 0.95]}, {"z": "y"})
        store.add_artifact(run_id, project / "image.png", "pictures")
        store.set_status(run_id, "FINISHED")
        run = client.client.get_run(run_id)
        latest = client.client.get_metric_history(run_id, "loss")
        seen.append(
            {
                "metrics": run.data.metrics,
                "params": run.data.params,
                "tags": {k: v for k, v in run.data.tags.items() if k not in ("kind", "mlflow.user")},
                "status": run.info.status,
                "ended": run.info.end_time >= run.info.start_time,
                "lifecycle": run.info.lifecycle_stage,
                "experiment": run.info.experiment_id,
                "artifact_uri": run.info.artifact_uri.replace(run_id, "ID"),
                "artifacts": [
                    (f.path, f.file_size) for f in client.client.list_artifacts(run_id, "pictures")
                ],
                "history": sorted((m.step, m.timestamp, m.value) for m in latest),
            }
        )
        for reader in (direct, client):
            assert [found.run_id for found in reader.find({"kind": type(store).__name__})] == [run_id]
            assert reader.get(run_id).status == "FINISHED"
            assert reader.get("0" * 32) is None
    assert seen[0] == seen[1]
    assert seen[0]["metrics"] == {"loss": 1.5, "m.1": 1.0}
    assert len(seen[0]["history"]) == 3


def test_run_is_a_child_with_parameters_tags_and_metrics(project, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    run_id = execute(
        "second@full", {"map_1": np.float32(0.5), "map_1_n": np.int64(7)}, [(1, {"train/loss": 2.0})]
    )
    run = open_store().get(run_id)
    (parent,) = parents()
    assert run.status == parent.status == "FINISHED"
    assert run.tags[PARENT_TAG] == parent.run_id
    assert run.tags["mlflow.runName"] == run.tags["dvc_stage"] == "second@full"
    assert run.tags["slurm_job_id"] == "42" and run.tags["device"] == "cpu" and run.tags["node"]
    assert len(run.tags["stage_signature"]) == 64 and run.tags["git_commit"]
    database = sqlite3.connect("mlflow.db")
    params = dict(database.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,)))
    assert params == {"pretrain.learning_rate": "0.001"} | {
        f"variants.full.{k}": "1.0" for k in ("itc", "itm", "itg", "tig")
    }
    configuration = dict(
        database.execute("SELECT key, value FROM params WHERE run_uuid = ?", (parent.run_id,))
    )
    assert configuration["pretrain.learning_rate"] == "0.001" and len(configuration) > 80
    assert history(run_id, "train/loss") == [(1, 2.0)]
    assert history(parent.run_id, "second.full/map_1") == [(0, 0.5)]
    assert history(run_id, "system/wall_seconds") and not history(
        parent.run_id, "second.full/system/wall_seconds"
    )
    assert json.loads((project / "results/metrics/second@full.json").read_text()) == {
        "map_1": 0.5,
        "map_1_n": 7,
    }
    assert Journal.all() == []  # all is sent: nothing is left on disk


def test_stage_that_declares_no_metrics_file_writes_none(project):
    run_id = execute("third", {"pages": 1})
    assert not (project / "results/metrics").exists() and history(run_id, "pages") == [(0, 1.0)]
    set_parameter(project, "seed", "1")
    assert adopt(["third"]) == ["third"]


def test_parallel_stages_share_one_parent(project):
    running = [start(project, "first.py")] + [start(project, "second.py", "full") for _ in range(3)]
    for process in running:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    (parent,) = parents()
    children = open_store().find({PARENT_TAG: parent.run_id})
    assert sorted(child.tags["mlflow.runName"] for child in children if "cached" not in child.tags) == [
        "first",
        "second@full",
        "second@full",
        "second@full",
    ]
    assert parent.status == "FINISHED"


def test_another_configuration_is_another_parent_with_comments_aside(project):
    execute("first")
    (project / "params.yaml").write_text("# a comment\n" + (project / "params.yaml").read_text())
    execute("first")
    assert len(parents()) == 1
    set_parameter(project, "pretrain.learning_rate", "2.0e-3")
    execute("second@full")
    assert len(parents()) == 2


def test_long_stage_sends_while_it_works(project, monkeypatch):
    monkeypatch.setattr("medunifier.tracking.run.SEND_EVERY", 0.05)
    with Run.open("first") as run:
        run.curve(1, {"loss": 3.0})
        deadline = time.monotonic() + 5
        while not (seen := history(run.journal.about["run_id"], "loss")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert seen == [(1, 3.0)]
        run.finish()


def test_store_that_breaks_later_costs_nothing_but_a_warning(project, monkeypatch, capsys):
    (project / "a.png").write_bytes(b"1")
    with Run.open("first") as run:
        os.rename("mlflow.db", "away.db")
        run.curve(1, {"loss": 3.0})
        run.artifact("a.png", "pictures")
        run.metrics({"count": 2})
        run.finish()
    run_id = run.journal.about["run_id"]
    (project / "a.png").unlink()
    assert json.loads((project / "results/metrics/first.json").read_text()) == {"count": 2}
    record = json.loads((project / "results/runs/first.json").read_text())
    assert (record["run_id"], record["stage"]) == (run_id, "first")
    warning = capsys.readouterr().err
    assert "python -m medunifier.tracking upload" in warning and "mlflow.db" in warning

    os.rename("away.db", "mlflow.db")
    assert upload() == 1
    assert open_store().get(run_id).status == "FINISHED"
    assert history(run_id, "loss") == [(1, 3.0)] and history(run_id, "count") == [(0, 2.0)]
    assert (project / "mlartifacts" / run_id / "artifacts/images/a.png").read_bytes() == b"1"
    assert upload() == 0 and Journal.all() == []


def test_sending_twice_makes_no_doubles(project):
    with Run.open("first") as run:
        run.curve(1, {"loss": 3.0})
        run.journal.send(run.store)
        (run.journal.folder / "sent").unlink()  # as if killed between the store's commit and this file
        run.finish()
    assert history(run.journal.about["run_id"], "loss") == [(1, 3.0)]


def test_killed_stage_continues_its_run(project):
    """Kill -9 in the middle; the next execution continues the curve, though it reports some steps again."""
    body = """
import os, signal
for step in range(1, 6):
    run.curve(step, {"loss": 1 / step})
    if step == 3 and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)"""
    write_stage(project, "first", body)
    assert python(project, "first.py").returncode == -signal.SIGKILL
    (journal,) = Journal.all("first")
    with journal.path.open("ab") as file:
        file.write(b'{"half a li')
    assert upload() == 1 and upload() == 0
    assert open_store().get(journal.about["run_id"]).status == "KILLED"
    assert history(journal.about["run_id"], "loss") == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]

    done = python(project, "first.py")
    assert done.returncode == 0, done.stderr
    assert json.loads((project / "results/runs/first.json").read_text())["run_id"] == journal.about["run_id"]
    assert history(journal.about["run_id"], "loss") == [(step, 1 / step) for step in range(1, 6)]
    assert open_store().get(journal.about["run_id"]).status == "FINISHED" and Journal.all() == []


def test_killed_stage_with_other_parameters_starts_anew(project):
    with pytest.raises(KeyboardInterrupt), Run.open("second@full") as killed:
        raise KeyboardInterrupt
    set_parameter(project, "pretrain.learning_rate", "2.0e-3")
    run_id = execute("second@full")
    assert run_id != killed.journal.about["run_id"]
    assert open_store().get(killed.journal.about["run_id"]).status == "KILLED" and Journal.all() == []


def test_run_without_a_journal_is_closed(project):
    with pytest.raises(KeyboardInterrupt), Run.open("first") as lost:
        raise KeyboardInterrupt
    open_store().set_status(
        lost.journal.about["run_id"], "RUNNING"
    )  # as if killed before the journal was made
    shutil.rmtree(lost.journal.folder)
    execute("first")
    assert open_store().get(lost.journal.about["run_id"]).status == "KILLED"
    assert parents()[0].status == "FINISHED"


def test_full_disk_leaves_no_torn_entry(project):
    """A disk that takes half of a line: the entry is gone, the next one is whole."""
    with Run.open("first") as run:
        raw = run.journal.file

        class HalfFull:
            def __getattr__(self, name):
                return getattr(raw, name)

            def write(self, data):
                return raw.write(data[: len(data) // 2])

        run.journal.file = HalfFull()
        with pytest.raises(OSError, match="No space left on device.*journal.jsonl"):
            run.curve(1, {"loss": 1.0})
        run.journal.file = raw
        run.curve(2, {"loss": 2.0})
        run.finish()
    assert history(run.journal.about["run_id"], "loss") == [(2, 2.0)]


def test_failed_stage_is_marked(project):
    with pytest.raises(RuntimeError), Run.open("first") as run:
        raise RuntimeError("no")
    assert open_store().get(run.journal.about["run_id"]).status == "FAILED"
    assert parents()[0].status == "FAILED"
    assert not (project / "results/runs/first.json").exists()


def test_reused_stages_appear_in_the_configuration_that_used_them(project):
    first = execute("first", {"count": 3})
    second = execute("second@full", {"score": 0.5})
    assert adopt(["first", "second@full"]) == []  # both belong to this configuration already
    set_parameter(project, "pretrain.learning_rate", "2.0e-3")
    execute("second@full", {"score": 0.75})  # `first` is reused, as DVC would: shown at once
    _, new = parents()
    children = open_store().find({PARENT_TAG: new.run_id})
    (cached,) = [child for child in children if child.tags.get("cached") == "true"]
    assert (cached.tags["source_run_id"], cached.tags["dvc_stage"], cached.status) == (
        first,
        "first",
        "FINISHED",
    )
    assert history(cached.run_id, "count") == [(0, 3.0)] and history(new.run_id, "first/count") == [(0, 3.0)]
    assert adopt(["first", "second@full"]) == []

    set_parameter(project, "seed", "7")  # a third configuration: everything restored from cache
    (project / "results/runs/second@full.json").write_text(
        json.dumps({"run_id": second, "stage": "second@full"})
    )
    assert adopt(["first", "second@full"]) == ["first", "second@full"]
    assert adopt(["first", "second@full"]) == []
    third = parents()[-1]
    assert {child.tags["source_run_id"] for child in open_store().find({PARENT_TAG: third.run_id})} == {
        first,
        second,
    }


def test_stages_that_dvc_restores_from_its_cache_are_shown(project):
    """Two learning rates, then back to the first, then a third parameter that no stage obeys: all by `dvc repro`."""

    def repro():
        assert python(project, "-m", "dvc", "repro", "-q").returncode == 0

    assert python(project, "-m", "dvc", "init", "--no-scm", "-q").returncode == 0
    repro()
    assert adopt(up_to_date_stages()) == []
    set_parameter(project, "pretrain.learning_rate", "2.0e-3")
    repro()
    assert adopt(up_to_date_stages()) == ["third"]  # `second` showed `first` when it started
    set_parameter(project, "pretrain.learning_rate", "1.0e-3")
    repro()
    assert adopt(up_to_date_stages()) == []  # restored, and the runs of this configuration already
    set_parameter(project, "simulate.image_size", "256")
    assert python(project, "-m", "medunifier.tracking", "adopt").stdout == "3 stage(s) shown from cache\n"
    states = [
        [
            (child.tags["dvc_stage"], child.tags.get("cached"))
            for child in open_store().find({PARENT_TAG: run.run_id})
        ]
        for run in parents()
    ]
    assert states == [
        [("first", None), ("second@full", None), ("third", None)],
        [("first", "true"), ("second@full", None), ("third", "true")],
        [("first", "true"), ("second@full", "true"), ("third", "true")],
    ]


def test_outdated_result_is_not_shown_as_used(project):
    execute("first", {"count": 3})
    set_parameter(project, "vision.skip_last_blocks", "1")  # `first` is out of date now
    execute("second@full")
    new = parents()[-1]
    assert [c.tags["dvc_stage"] for c in open_store().find({PARENT_TAG: new.run_id})] == ["second@full"]


def test_locked_store_is_refused_in_time(project, monkeypatch):
    monkeypatch.setenv("MEDUNIFIER_STORE_SECONDS", "0.3")
    database = sqlite3.connect("mlflow.db")
    database.execute("BEGIN EXCLUSIVE")
    begin = time.monotonic()
    with pytest.raises(StoreError, match=r"mlflow.db.*locked.*then run the same command again"):
        Run.open("first")
    assert time.monotonic() - begin < 5
    database.close()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda db: db.write_bytes(b"no database at all" * 100), "damaged"),
        (lambda db: db.unlink() or db.mkdir(), "cannot be used"),
    ],
)
def test_unusable_store_is_refused(project, damage, message):
    damage(project / "mlflow.db")
    with pytest.raises(StoreError, match=message):
        Run.open("first")


def test_deleted_experiment_is_refused(project):
    database = sqlite3.connect("mlflow.db")
    database.execute("UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'medunifier'")
    database.commit()
    with pytest.raises(StoreError, match="mlflow experiments restore"):
        Run.open("first")


def test_unreachable_server_is_refused_in_time(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        StoreError, match="http://127.0.0.1:9.*start the server or correct MLFLOW_TRACKING_URI"
    ):
        Run.open("first")


def test_unknown_stage_is_refused(project):
    with pytest.raises(InputError, match=r"no stage `second@tiny`.*first, second@full"):
        Run.open("second@tiny")


def test_metrics_must_be_finite(tmp_path):
    run = LocalRun("stage", tmp_path)
    run.metrics({"a": 1})
    with pytest.raises(InputError, match="`psnr` is nan"):
        run.metrics({"psnr": float("nan")})
    with pytest.raises(InputError, match="`loss` is inf"):
        run.curve(3, {"loss": np.float32("inf")})
    with pytest.raises(InputError, match="no such file"):
        run.artifact(tmp_path / "none.png")
    run.metrics({"b": np.float64(0.25)})
    assert (tmp_path / "stage.json").read_text() == '{\n  "a": 1,\n  "b": 0.25\n}\n'


def test_only_the_first_process_of_a_distributed_stage_reports(project, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with Run.open("first") as run:
        run.curve(1, {"loss": 1.0})
        run.metrics({"count": 1})
        run.log("hello")
        run.finish()
    assert not (project / "results").exists() and not (project / ".state").exists()
    assert capsys.readouterr().out == ""


def test_signature_follows_command_parameters_and_inputs(project):
    before = Pipeline().signature("second@full")
    set_parameter(project, "seed", "1")
    assert Pipeline().signature("second@full") == before  # not declared for this stage
    (project / "out/first.txt").write_text("y")
    changed = Pipeline().signature("second@full")
    assert changed != before
    lock = {"stages": {"first": {"outs": [{"path": "out/first.txt", "md5": "abc"}]}}}
    (project / "dvc.lock").write_text(json.dumps(lock))
    locked = Pipeline().signature("second@full")
    (project / "out/first.txt").write_text("z")
    assert Pipeline().signature("second@full") == locked != changed  # DVC's hash stands for the content
