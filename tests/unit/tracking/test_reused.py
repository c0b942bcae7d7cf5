"""Stages whose results are reused: shown under the configuration that uses them, with the times of their execution."""

import json

import pytest

from medunifier.tracking import Run
from medunifier.tracking.configuration import request_adoption, up_to_date_stages
from medunifier.tracking.delivery import Parents
from tests.support.stored_runs import children, data, history, parents, run_of, send
from tests.support.tracking_project import execute, python, set_parameter


def adopt(names):
    """Show stages under the present configuration; returns the names of those that are new there."""
    before = {child.run_id for parent in parents() for child in children(parent)}
    request_adoption(names)
    assert send()
    found = [child for parent in parents() for child in children(parent) if child.run_id not in before]
    return sorted(child.tags["dvc_stage"] for child in found)


def test_reused_stages_appear_in_the_configuration_that_used_them(project):
    first = execute("first", {"count": 3})
    second = execute("second@full", {"score": 0.5})
    assert send() and adopt(["first", "second@full"]) == []  # both belong to this configuration already
    record = (project / "results/runs/second@full.json").read_text()
    set_parameter(project, "pretrain.learning_rate", "2.0e-3")
    execute("second@full", {"score": 0.75})  # `first` is reused, as DVC would: shown at once
    assert send()
    _, new = parents()
    (cached,) = [child for child in children(new) if child.tags.get("cached") == "true"]
    source = run_of(first)
    assert cached.tags["source_run_id"] == source.run_id
    assert (cached.tags["dvc_stage"], cached.status) == ("first", "FINISHED")
    assert history(cached.run_id, "count") == [(0, 3.0)] and history(new.run_id, "first/count") == [(0, 3.0)]
    assert data(cached.run_id).params == data(source.run_id).params
    assert adopt(["first", "second@full"]) == []

    set_parameter(project, "seed", "7")  # a third configuration: everything restored from cache
    (project / "results/runs/second@full.json").write_text(record)
    assert adopt(["first", "second@full"]) == ["first", "second@full"]
    assert adopt(["first", "second@full"]) == []
    shown = {child.tags["source_execution_id"] for child in children(parents()[-1])}
    assert shown == {first, second} and parents()[-1].status == "FINISHED"


def test_a_reused_stage_keeps_its_start_and_its_end(project):
    """Also where the store does not know the execution: another store, or one that was deleted."""
    execution = execute("first", {"count": 3})
    assert send()
    source = run_of(execution)
    set_parameter(project, "seed", "7")
    assert adopt(["first"]) == ["first"]
    (cached,) = children(parents()[-1])
    assert (cached.started, cached.ended) == (source.started, source.ended)
    record = json.loads((project / "results/runs/first.json").read_text())
    record |= {"execution_id": "f" * 32, "started": 1000, "ended": 61000, "node": "gpu7"}
    (project / "results/runs/first.json").write_text(json.dumps(record))
    set_parameter(project, "seed", "8")
    assert adopt(["first"]) == ["first"]
    (cached,) = children(parents()[-1])
    assert (cached.started, cached.ended, cached.tags["node"]) == (1000, 61000, "gpu7")
    assert history(cached.run_id, "count") == [(0, 3.0)]


def test_an_execution_of_an_earlier_version_is_found_by_mlflow_s_id(project):
    """Its record, which DVC restores from its cache, knows no execution but MLflow's id of the run."""
    execution = execute("first", {"count": 3})
    assert send()
    source = run_of(execution)
    old = {"run_id": source.run_id, "stage": "first", "costs": {}}
    (project / "results/runs/first.json").write_text(json.dumps(old))
    assert adopt(["first"]) == []
    set_parameter(project, "seed", "7")
    assert adopt(["first"]) == ["first"]
    (cached,) = children(parents()[-1])
    assert cached.tags["source_run_id"] == source.run_id and cached.started == source.started


def test_showing_a_reused_stage_goes_on_where_it_was_killed(project, monkeypatch):
    execute("first", {"count": 3})
    assert send()
    set_parameter(project, "seed", "7")
    request_adoption(["first"])
    with monkeypatch.context() as patch:
        patch.setattr(Parents, "note", lambda *_: 1 / 0)  # after the run, before its status is known
        patch.setattr("medunifier.tracking.store.Store.set_status", lambda *_: 1 / 0)
        assert not send()
    assert send()
    (cached,) = children(parents()[-1])
    assert cached.status == parents()[-1].status == "FINISHED"
    assert history(cached.run_id, "count") == [(0, 3.0)]


def test_outdated_result_is_not_shown_as_used(project):
    execute("first", {"count": 3})
    set_parameter(project, "vision.skip_last_blocks", "1")  # `first` is out of date now
    execute("second@full")
    assert send()
    assert [child.tags["dvc_stage"] for child in children(parents()[-1])] == ["second@full"]


def test_a_stage_of_the_same_configuration_costs_no_second_look(project, monkeypatch):
    """Nothing of a stage that ran in this configuration is digested again when the next one starts."""
    execute("first", {"count": 3})
    asked = []
    signature = "medunifier.runtime.dvc_pipeline.Pipeline.signature"
    monkeypatch.setattr(signature, lambda self, name: asked.append(name) or "digest")
    with Run.open("second@full") as run:
        run.finish()
    assert asked == ["second@full"]


@pytest.mark.slow
@pytest.mark.workflow
def test_stages_that_dvc_restores_from_its_cache_are_shown(project):
    """Two learning rates, then back to the first, then a third parameter that no stage obeys: all by `dvc repro`."""

    def repro():
        assert python(project, "-m", "dvc", "repro", "-q").returncode == 0
        assert send()

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
    done = python(project, "-m", "medunifier.tracking", "adopt")
    assert done.stdout == "sqlite:///mlflow.db: shows every stage that is up to date\n", done.stderr
    states = [
        sorted((child.tags["dvc_stage"], child.tags.get("cached")) for child in children(parent))
        for parent in parents()
    ]
    assert states == [
        [("first", None), ("second@full", None), ("third", None)],
        [("first", "true"), ("second@full", None), ("third", "true")],
        [("first", "true"), ("second@full", "true"), ("third", "true")],
    ]


def test_a_damaged_record_is_passed_over(project):
    """Here: of the stage before. What is damaged is for `workflow.doctor --verify` to find, not for the tracker."""
    execute("first", {"count": 3})
    assert send()
    set_parameter(project, "pretrain.learning_rate", "2.0e-3")
    (project / "results/runs/first.json").write_bytes(b'{"execution_id": "a\xff')
    execute("second@full", {"score": 0.75})
    assert adopt(["first", "second@full"]) == ["second@full"]
