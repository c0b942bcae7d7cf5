"""`workflow.status` says beforehand what snakemake then does."""

import json
import re
import shutil

from tests.support.toy_pipeline import Toy

TRAINS = ["train@full", "train@small"]
SCORES = ["score@full-b-b", "score@small-b-b"]


def verdicts(toy: Toy, options: str = "") -> dict[str, tuple[str, str]]:
    """Stage -> (verdict, the rest of its line)."""
    said = toy.shell(f"python -m workflow.status {options}")
    return {
        name: (verdict, rest.strip())
        for name, verdict, rest in re.findall(r"^(\S+) {2,}(RUN|RESTORE|SKIP)\b(.*)$", said, re.MULTILINE)
    }


def of(found: dict, verdict: str) -> list[str]:
    return sorted(name for name, (word, _) in found.items() if word == verdict)


def test_nothing_to_do_and_a_changed_parameter_with_its_costs(done: Toy) -> None:
    assert {word for word, _ in verdicts(done).values()} == {"SKIP"}

    costs = done.folder / ".state/costs"
    costs.mkdir(parents=True)
    (costs / "train@full.json").write_text(json.dumps({"costs": {"wall_seconds": 7200, "gpus": 4}}))
    (costs / "score@small-b-b.json").write_text(json.dumps({"costs": {"wall_seconds": 30, "gpus": 0}}))
    done.edit("params.yaml", "full: {weight: 1}", "full: {weight: 2}")
    found = verdicts(done)
    assert of(found, "RUN") == ["score@full-b-b", "summarize", "train@full"]
    assert re.match(r"2\.0 h +8\.00 +modified: variants", found["train@full"][1])
    assert re.match(r"30 s +0\.00 .*after train@full", found["score@full-b-b"][1]), "its family's median"
    assert found["summarize"][1].startswith("?")
    said = done.shell("python -m workflow.status")
    assert (
        "in all: 3 RUN, 0 RESTORE, 5 SKIP; expected: 2.0 h and 8.00 GPU h one after another; 1 without"
        in said
    )
    done.call("snakemake --cores 2")
    assert sorted(done.ran()) == ["score@full-b-b", "summarize", "train@full"]


def test_earlier_parameters_are_restored_to_the_last_stage(done: Toy) -> None:
    """Including a stage whose input is a folder of other stages' results, here and from a remote."""
    done.edit("params.yaml", "steps: 2", "steps: 3")
    done.call("dvc repro")
    done.edit("params.yaml", "steps: 3", "steps: 2")
    done.ran()
    found = verdicts(done)
    assert of(found, "RESTORE") == sorted([*SCORES, *TRAINS, "summarize"]) and not of(found, "RUN")
    assert "in the cache" in found["train@full"][1]

    remote = done.folder.parent / "remote"
    done.shell(f"dvc remote add -d shared {remote}")
    done.shell("dvc push -q --run-cache --all-commits 2>/dev/null || dvc push -q --run-cache")
    done.call("snakemake --cores 2")
    assert done.ran() == [] and done.unclean() == []
    done.shell("dvc push -q --run-cache")

    shutil.rmtree(done.folder / ".dvc/cache")
    shutil.rmtree(done.folder / "models")
    found = verdicts(done)
    assert found["train@full"][0] == "RESTORE" and "in the remote" in found["train@full"][1]
    assert not of(found, "RUN")
    assert verdicts(done, "--no-remote")["train@full"][0] == "RUN"


def test_a_changed_comment_may_leave_the_rest_alone(done: Toy) -> None:
    done.write("split.txt", "split\na comment\n")
    found = verdicts(done)
    assert found["split@a"][0] == "RUN" and found["train@full"] == (
        "RUN",
        "?      ?  after split@a, unless its inputs come out the same",
    )
