"""What a stage reports: to the results folder, and to the journal from which the store gets it."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from medunifier.runtime.dvc_pipeline import Pipeline
from medunifier.runtime.errors import InputError
from medunifier.tracking import LocalRun, Run
from medunifier.tracking.journal import Journal
from medunifier.tracking.provenance import slurm_job_id
from tests.support.stored_runs import artifact, children, data, history, parents, run_of, runs, send, store
from tests.support.tracking_project import execute, python, set_parameter, start, write_stage


def test_a_run_beside_an_allocation_is_in_no_job(monkeypatch):
    """A shell of `salloc` on the login node has the job's number."""
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    for variable in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.setenv(variable, "42")
        assert slurm_job_id() == "none"


def test_run_is_a_child_with_parameters_tags_and_metrics(project, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    execution = execute(
        "second@full", {"map_1": np.float32(0.5), "map_1_n": np.int64(7)}, [(1, {"train/loss": 2.0})]
    )
    assert send()
    run = run_of(execution)
    (parent,) = parents()
    assert run.status == parent.status == "FINISHED"
    assert run.tags["mlflow.parentRunId"] == parent.run_id
    assert run.tags["mlflow.runName"] == run.tags["dvc_stage"] == "second@full"
    assert run.tags["slurm_job_id"] == "42" and run.tags["device"] == "cpu" and run.tags["node"]
    assert len(run.tags["stage_signature"]) == 64 and run.tags["git_commit"]
    assert data(run.run_id).params == {"pretrain.learning_rate": "0.001"} | {
        f"variants.full.{k}": "3.0" if k == "itg" else "1.0" for k in ("itc", "itm", "itg", "tig")
    }
    configuration = data(parent.run_id).params
    assert configuration["pretrain.learning_rate"] == "0.001" and len(configuration) > 80
    assert history(run.run_id, "train/loss") == [(1, 2.0)]
    assert history(parent.run_id, "second.full/map_1") == [(0, 0.5)]
    assert history(run.run_id, "system/wall_seconds")
    assert not history(parent.run_id, "second.full/system/wall_seconds")
    metrics = json.loads((project / "results/metrics/second@full.json").read_text())
    assert metrics == {"map_1": 0.5, "map_1_n": 7}
    assert Journal.all() == []  # all is sent: nothing is left on disk


def test_a_run_lasts_as_long_as_its_process(project):
    """From the start of the process, imports included, to its end: not from when the uploader heard of it."""
    write_stage(project, "first", "import time; time.sleep(0.5)")
    assert python(project, "first.py").returncode == 0
    record = json.loads((project / "results/runs/first.json").read_text())
    assert send()
    run = run_of(record["execution_id"])
    assert run.started == record["started"] and 500 <= run.ended - run.started < 5000
    assert abs((run.ended - run.started) / 1000 - record["costs"]["wall_seconds"]) < 0.5


def test_stage_that_declares_no_metrics_file_writes_none(project):
    execution = execute("third", {"pages": 1})
    assert not (project / "results/metrics").exists()
    assert send() and history(run_of(execution).run_id, "pages") == [(0, 1.0)]


@pytest.mark.slow
def test_a_stage_imports_no_mlflow_and_no_database(project):
    """Neither while it works nor at its end, with metrics, curves and artifacts."""
    body = (
        "Path('a.png').write_bytes(b'1')\n"
        "run.curve(1, {'loss': 1.0}); run.artifact('a.png'); run.metrics({'a': 1}); run.params({'b': 2})\n"
        "import atexit, sys\n"
        "atexit.register(lambda: print(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    write_stage(project, "first", body)
    done = python(project, "first.py")
    assert done.returncode == 0, done.stderr
    assert "'medunifier'" in done.stdout
    for name in ("mlflow", "sqlalchemy", "sqlite3", "alembic", "requests", "pandas"):
        assert f"'{name}'" not in done.stdout


def test_parallel_stages_share_one_parent(project):
    running = [start(project, "first.py")] + [start(project, "second.py", "full") for _ in range(3)]
    for process in running:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert send()
    (parent,) = parents()
    names = sorted(child.tags["mlflow.runName"] for child in children(parent) if "cached" not in child.tags)
    assert names == ["first", "second@full", "second@full", "second@full"]
    assert parent.status == "FINISHED"


def test_another_configuration_is_another_parent_with_comments_aside(project):
    execute("first")
    (project / "params.yaml").write_text("# a comment\n" + (project / "params.yaml").read_text())
    execute("first")
    assert send() and len(parents()) == 1
    set_parameter(project, "pretrain.learning_rate", "2.0e-3")
    execute("second@full")
    assert send() and len(parents()) == 2


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
    assert send() and send()
    run = run_of(journal.about["execution_id"])
    assert run.status == "KILLED" and parents()[0].status == "KILLED"
    assert history(run.run_id, "loss") == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]

    done = python(project, "first.py")
    assert done.returncode == 0, done.stderr
    record = json.loads((project / "results/runs/first.json").read_text())
    assert record["execution_id"] == journal.about["execution_id"]
    assert send() and Journal.all() == []
    assert history(run.run_id, "loss") == [(step, 1 / step) for step in range(1, 6)]
    assert run_of(record["execution_id"]).status == parents()[0].status == "FINISHED"


def test_killed_stage_that_was_never_sent_continues_too(project):
    run = Run.open("first")
    run.curve(1, {"loss": 1.0})
    with pytest.raises(KeyboardInterrupt), run as killed:
        raise KeyboardInterrupt
    execution = execute("first", curve=[(1, {"loss": 1.0}), (2, {"loss": 0.5})])
    assert execution == killed.journal.about["execution_id"]
    assert send() and history(run_of(execution).run_id, "loss") == [(1, 1.0), (2, 0.5)]


def test_killed_stage_with_other_parameters_begins_a_new_run(project):
    with pytest.raises(KeyboardInterrupt), Run.open("second@full") as killed:
        raise KeyboardInterrupt
    set_parameter(project, "pretrain.learning_rate", "2.0e-3")
    execution = execute("second@full")
    assert execution != killed.journal.about["execution_id"]
    assert send() and run_of(killed.journal.about["execution_id"]).status == "KILLED"
    assert send() and Journal.all() == []


def test_run_without_a_journal_is_closed(project):
    """Only one of this folder: the same configuration may run elsewhere on the same server."""
    with Run.open("first") as lost:
        assert send()
        shutil.rmtree(lost.journal.folder)
    other = store().find_or_create(
        "first",
        {"execution_id": "0" * 32},
        {"mlflow.parentRunId": parents()[0].run_id, "dvc_stage": "first", "state_folder": "/elsewhere"},
        1,
    )
    execute("first")
    assert send()
    assert run_of(lost.journal.about["execution_id"]).status == "KILLED"
    assert run_of("0" * 32).status == other.status == "RUNNING"
    store().set_status(other.run_id, "FINISHED", 2)
    execute("first")
    assert send() and parents()[0].status == "FINISHED"


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
        with pytest.raises(OSError, match=r"No space left on device.*journal.jsonl"):
            run.curve(1, {"loss": 1.0})
        run.journal.file = raw
        run.curve(2, {"loss": 2.0})
        run.finish()
    assert send() and history(run_of(run.journal.about["execution_id"]).run_id, "loss") == [(2, 2.0)]


def test_failed_stage_is_marked(project):
    with pytest.raises(RuntimeError), Run.open("first") as run:
        raise RuntimeError("no")
    assert send() and run_of(run.journal.about["execution_id"]).status == "FAILED"
    assert parents()[0].status == "FAILED"
    assert not (project / "results/runs/first.json").exists()


def test_artifacts_arrive_as_they_were_when_reported(project):
    (project / "a.png").write_bytes(b"1")
    with Run.open("first") as run:
        run.artifact("a.png", "images")
        (project / "a.png").unlink()
        run.finish()
    assert send()
    assert artifact(run_of(run.journal.about["execution_id"]).run_id, "images/a.png") == b"1"


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


def test_a_stage_names_the_dvc_that_runs_it(project):
    """For which the uploader waits between two stages."""
    write_stage(
        project, "first", "from medunifier.tracking.run import calling_dvc; run.log(str(calling_dvc()))"
    )
    alone = python(project, "first.py")
    assert alone.stdout == "[first] None\n"
    dvc = project / "dvc"
    dvc.write_text(f"#!{sys.executable}\nimport os, subprocess, sys\nprint(os.getpid(), flush=True)\n"
                   "subprocess.run([sys.executable, 'first.py'], check=True)\n")  # fmt: skip
    done = python(project, str(dvc), DVC_ROOT=str(project))
    pid, line = done.stdout.splitlines()
    assert f"'pid': {pid}," in line and os.uname().nodename in line
    assert Path("results/runs/first.json").exists() and not runs(dvc_stage="first")
