"""Snakemake and DVC agree: each sentence of the contract, on the toy pipeline."""

import json
import shutil

import pytest

from tests.support.toy_pipeline import Toy

ALL = [
    "make",
    "split@a",
    "split@b-b",
    "train@full",
    "train@small",
    "score@full-b-b",
    "score@small-b-b",
    "summarize",
]
SCORES = [name for name in ALL if name.startswith("score")]
TRAINS = ["train@full", "train@small"]


def test_snakemake_runs_every_stage_once_and_dvc_counts_it(toy: Toy) -> None:
    assert toy.planned() == sorted(ALL)
    toy.call("snakemake --cores 2")
    assert sorted(toy.ran()) == sorted(ALL)
    assert toy.unclean() == []
    assert toy.planned() == []
    assert toy.locked() == ALL, "dvc.lock is in the order of dvc.yaml, not of completion"
    assert toy.read("tracking.txt").splitlines() == ["begin", f"adopt {' '.join(ALL)}"]
    toy.call("dvc repro")
    assert toy.ran() == []


def test_dvc_repro_counts_for_snakemake(done: Toy) -> None:
    assert done.planned() == []
    assert "Nothing to be done" in done.call("snakemake --cores 2")
    assert done.ran() == [] and done.read("tracking.txt") == ""


@pytest.mark.parametrize("what", ["touched files", "no .snakemake", "no .state"])
def test_nothing_changed_means_no_jobs(done: Toy, what: str) -> None:
    done.planned()
    if what == "touched files":
        for path in done.folder.glob("*.txt"):
            path.touch()
        (done.folder / "data/raw/file.txt").touch()
    else:
        shutil.rmtree(done.folder / what.split()[1])
    assert done.planned() == []
    assert done.unclean() == []


def test_changed_code_runs_exactly_its_stages(done: Toy) -> None:
    done.write("score.txt", "score better\n")
    assert done.unclean() == SCORES
    assert done.planned() == [*SCORES, "summarize"]
    done.call("snakemake --cores 2")
    # the toy's scores do not depend on that file's content: summarize finds its inputs the same
    assert sorted(done.ran()) == SCORES
    assert done.planned() == [] and done.unclean() == []


def test_changed_parameter_runs_its_stages_and_those_behind(done: Toy) -> None:
    done.edit("params.yaml", "full: {weight: 1}", "full: {weight: 2}")
    behind = ["score@full-b-b", "summarize"]
    assert done.unclean() == ["train@full"]
    assert done.planned() == sorted(["train@full", *behind])
    done.call("snakemake --cores 2")
    assert sorted(done.ran()) == sorted(["train@full", *behind])
    assert done.planned() == [] and done.unclean() == []


def test_stages_whose_inputs_come_out_the_same_are_skipped(done: Toy) -> None:
    done.write("split.txt", "split\na comment\n")
    assert done.planned() == sorted(set(ALL) - {"make"})
    done.call("snakemake --cores 2")
    assert sorted(done.ran()) == ["split@a", "split@b-b"]
    assert done.read(".state/outcomes/train@full") == "unchanged\n"


def test_earlier_parameters_come_back_from_the_run_cache(done: Toy) -> None:
    before = done.read("models/full/file.txt")
    done.edit("params.yaml", "steps: 2", "steps: 3")
    done.call("dvc repro")
    assert "train@full" in done.ran() and done.read("models/full/file.txt") != before
    done.edit("params.yaml", "steps: 3", "steps: 2")
    assert done.unclean() == TRAINS
    done.call("snakemake --cores 2")
    assert done.ran() == [], "nothing is trained again"
    assert done.read("models/full/file.txt") == before
    assert done.read(".state/outcomes/train@full") == "restored\n"
    assert done.planned() == [] and done.unclean() == []
    assert done.read("tracking.txt").splitlines()[-1] == f"adopt {' '.join(ALL)}"


def test_deleted_output_is_restored(done: Toy) -> None:
    shutil.rmtree(done.folder / "models/full")
    assert done.unclean() == ["score@full-b-b", "train@full"]
    done.call("snakemake --cores 2")
    assert done.ran() == []
    assert done.read("models/full/file.txt")
    assert done.planned() == []


def test_git_and_dvc_checkout_leave_nothing_to_do(done: Toy) -> None:
    commit = "git add -A . && git -c user.name=a -c user.email=a@b commit -qm"
    done.shell(f"{commit} first && git branch first")
    done.edit("params.yaml", "seed: 0", "seed: 1")
    done.call("dvc repro")
    done.shell(f"{commit} second && git branch second")
    for branch in ("first", "second"):
        done.shell(f"git checkout -q {branch}")
        done.call("dvc checkout --force")
        assert done.planned() == [] and done.unclean() == []


def test_stamps_are_no_business_of_other_triggers(done: Toy) -> None:
    """Snakemake's own record of code and software, which DVC ignores, causes no training."""
    done.edit("params.yaml", "ks: [1, 5]", "ks: [1]")
    done.call("snakemake --cores 2")
    done.edit("Snakefile", "--cpus {threads}", "--cpus  {threads}")
    done.edit("environment.yml", "dependencies:", "dependencies:  # edited")
    assert done.planned() == []


def test_a_change_of_a_preset_plans_the_new_stages_only(done: Toy) -> None:
    done.edit("params.yaml", "variants:\n", "variants:\n  new: {weight: 5}\n")
    assert done.unclean() == ["score@new-b-b", "train@new"]
    assert done.planned() == ["score@new-b-b", "summarize", "train@new"]


def test_plan_names_the_upstream_stages_as_dvc_does(done: Toy) -> None:
    """Against the graph that DVC itself draws."""
    done.planned()
    plan = {stage["name"]: stage["upstream"] for stage in json.loads(done.read(".state/plan.json"))}
    edges = [line.split(" -> ") for line in done.call("dvc dag --dot").splitlines() if "->" in line]
    ours = {(above, name) for name, upstream in plan.items() for above in upstream}
    assert {(above.strip(' ";'), name.strip(' ";')) for above, name in edges} == ours
    assert list(plan) == ALL


def test_a_missing_input_is_told_before_anything_runs(done: Toy) -> None:
    (done.folder / "split.txt").unlink()
    done.edit("params.yaml", "seed: 0", "seed: 1")
    for command in ("snakemake -n --cores 2", "snakemake --cores 2"):
        text = done.call(command, code=1)
        assert "split.txt: not there, but split@a, split@b-b reads it" in text
        assert "params.yaml" in text and "Traceback" not in text
    assert done.ran() == []


def test_a_changed_input_file_runs_what_reads_it(done: Toy) -> None:
    done.write("split.txt", "other raw data\n")
    assert done.unclean() == ["split@a", "split@b-b"]
    done.call("snakemake --cores 2")
    assert sorted(done.ran()) == sorted([name for name in ALL if name != "make"])
    assert done.unclean() == [] and done.planned() == []


def test_a_store_that_fails_at_the_end_costs_no_finished_run_its_success(toy: Toy) -> None:
    fails = "raise InputError('mlflow.db: is locked')"
    toy.edit("medunifier/tracking.py", "def adopt(names):\n", f"def adopt(names):\n    {fails}\n")
    toy.edit(
        "medunifier/tracking.py",
        "def begin_run",
        "from medunifier.runtime.errors import InputError\n\n\ndef begin_run",
    )
    text = toy.call("snakemake --cores 2")
    assert "mlflow.db: is locked" in text and "python -m medunifier.tracking upload" in text
    assert toy.planned() == []
