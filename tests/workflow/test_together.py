"""Many stages at once, and what the user is told when something is wrong."""

import re
from pathlib import Path

import pytest

from tests.support.toy_pipeline import PARAMS, Toy

MEET = """
import time

if stage.startswith("split@"):
    pathlib.Path(f"{stage}.here").touch()
    end = time.monotonic() + 120
    while not (pathlib.Path("split@a.here").exists() and pathlib.Path("split@b-b.here").exists()):
        assert time.monotonic() < end, "the other split did not start"
        time.sleep(0.05)
"""

TWENTY = """\
stages:
  one:
    desc: One of many
    matrix: {number: "${numbers}"}
    cmd: echo ${item.number} > out/${item.number}.txt
    deps: [make.txt]
    outs:
      - out/${item.number}.txt
"""


def test_independent_stages_run_at_the_same_time(done: Toy) -> None:
    done.write("hook.py", MEET)
    done.write("split.txt", "divide\n")
    done.call("snakemake --cores 2 --until split")
    assert sorted(done.ran()) == ["split@a", "split@b-b"]


@pytest.mark.workflow
def test_twenty_stages_at_once_lose_no_entry(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    toy = Toy(folder).build(
        TWENTY, "default: {cpus: 1, mem_mb: 1, runtime: 1, gpus: 0, nodes: 1, local: false}\n"
    )
    toy.write("params.yaml", PARAMS + f"numbers: {list(range(1, 21))}\n")
    (folder / "out").mkdir()
    toy.call("snakemake --cores 20")
    assert toy.locked() == sorted(f"one@{number}" for number in range(1, 21))
    assert toy.unclean() == [] and toy.planned() == []


def test_wrong_parameters_are_refused_before_anything_runs(done: Toy) -> None:
    done.edit("params.yaml", "steps: 2", "steps: -1")
    for command in ("snakemake -n --cores 2", "snakemake --cores 2"):
        said = done.call(command, code=1)
        assert "train.steps: -1 is refused; allowed: integer, at least 1" in said
        assert "Traceback" not in said
    assert done.ran() == []


def test_an_unreadable_pipeline_is_one_message(done: Toy) -> None:
    done.edit("params.yaml", "evaluate: [b-b]", "evaluated: [b-b]")
    said = done.call("snakemake -n --cores 2", code=1)
    assert "DVC cannot read the pipeline" in said and "evaluate" in said
    assert "Traceback" not in said


def test_messages_carry_the_reason_even_with_braces(done: Toy) -> None:
    done.edit("params.yaml", "ks: [1, 5]", "ks: [1, 7]")
    done.edit("dvc.yaml", "desc: Score", "desc: Score {by} these")
    said = done.call("snakemake -n --cores 2")
    assert re.search(r"Job \d+: score@full-b-b: Score {by} these \(modified: score\)", said)
    assert "summarize: Gather it all (after score@full-b-b" in said


def test_a_failing_stage_shows_its_message_and_keeps_its_log(done: Toy) -> None:
    done.write(
        "hook.py", "if name == 'score': sys.exit('scores.csv: row 3: no such class; add it to `classes`')"
    )
    done.write("score.txt", "score anew\n")
    said = done.call("snakemake --cores 2", code=1)
    assert "scores.csv: row 3: no such class; add it to `classes`" in said
    assert "no such class" in done.read(".state/logs/score@full-b-b.log")
    assert {"score@full-b-b", "score@small-b-b"} <= set(done.unclean())


def test_profiles_resolve_by_name(done: Toy) -> None:
    for name in ("local", "slurm"):
        assert "Nothing to be done" in done.call(f"snakemake --profile {name} -n")
