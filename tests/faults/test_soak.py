"""A short soak: faults on the toy pipeline, and some on the project's own, on which `make soak` does two hundred."""

from itertools import islice
from pathlib import Path

import pytest

from tests.faults.catalogue import Cell, Fault, faults
from tests.faults.injury import Injury
from tests.faults.recovery import recover
from tests.faults.sandbox import Sandbox
from tests.faults.soak import Soak, Tally
from tests.faults.subjects import SMALL, TOY, Subject


@pytest.mark.slow
@pytest.mark.workflow
@pytest.mark.parametrize(("subject", "number"), [(TOY, 30), (SMALL, 10)], ids=["toy", "small"])
def test_nothing_is_wrong_lost_or_stuck(tmp_path: Path, subject: Subject, number: int) -> None:
    tally = Tally("python -m tests.faults" + " --toy" * (subject is TOY))
    with Soak(subject, tmp_path) as soak:
        for fault in islice(faults(0, soak.cells), number):
            print(tally.add(fault, *soak.run(fault)))
    assert tally.is_good, tally.summary()
    assert tally.counts["injected"] >= number / 2, tally.summary()  # others came too late, or need root


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> Soak:
    with Soak(TOY, tmp_path_factory.mktemp("soak")) as soak:
        yield soak


@pytest.fixture
def toy(toys: Soak):
    with toys.templates.copy("finished", tracking=False) as sandbox:
        yield sandbox


def verdict(toys: Soak, toy: Sandbox, finished: dict[str, str]) -> str:
    return recover(toy, Injury(), toys.templates.hashes, finished).verdict


@pytest.mark.slow
@pytest.mark.workflow
class TestTheHarnessNotices:
    def test_outputs_that_differ(self, toys: Soak, toy: Sandbox) -> None:
        toy.toy.write("score.txt", "score otherwise\n")
        toy.toy.edit("params.yaml", "ks: [1, 5]", "ks: [1, 6]")
        assert verdict(toys, toy, {}) == "wrong"

    def test_finished_stages_that_run_again(self, toys: Soak, toy: Sandbox) -> None:
        finished = toy.finished()
        assert finished.keys() == toy.pipeline.stages.keys()
        toy.forget("train@full")
        assert verdict(toys, toy, finished) == "lost"

    def test_entries_that_an_interrupted_dvc_has_not_written(self, toys: Soak, toy: Sandbox) -> None:
        """A later run finds the stages in the run cache: they do not run again."""
        finished = toy.finished()
        lock = toy.toy.read("dvc.lock")
        toy.toy.write("dvc.lock", lock[: lock.index("  score@small-b-b:")])
        outcome = recover(toy, Injury("dvc repro train@full"), toys.templates.hashes, finished)
        assert outcome.verdict == "survived" and toy.finished() == finished

    def test_a_lock_file_that_dvc_cannot_read(self, toys: Soak, toy: Sandbox) -> None:
        """Cut short within an entry, it stops DVC itself; the project puts back its last whole copy."""
        finished = toy.finished()
        lock = toy.toy.read("dvc.lock")
        name = "  score@small-b-b:\n"
        toy.toy.write("dvc.lock", lock[: lock.index(name)] + name)
        outcome = recover(toy, Injury("dvc repro train@full"), toys.templates.hashes, finished)
        assert (
            outcome.verdict == "fixed" and outcome.advice == ["snakemake -n"] and toy.finished() == finished
        )

    def test_a_command_that_fails(self, toys: Soak, toy: Sandbox) -> None:
        toy.forget("train@full")
        toy.toy.write("hook.py", "sys.exit('no')")
        assert verdict(toys, toy, toy.finished()) == "stuck"

    def test_that_all_is_well(self, toys: Soak, toy: Sandbox) -> None:
        assert verdict(toys, toy, toy.finished()) == "survived"


def test_a_record_holds_no_folder_of_this_machine() -> None:
    from tests.faults.recovery import Outcome

    remark = "File \"/tmp/soak-1/arena/project/stage.py\", line 3\n/usr/bin/mount: PosixPath('/tmp/a/b') of data/x/y.npy, a/b"
    tally = Tally("python -m tests.faults")
    line = tally.add(Fault(0, 0, Cell("SIGKILL", "stage")), Outcome("broken", remarks=[remark]), "", 1.0)
    assert "/tmp/soak-1" in line, "who reads it is on this machine"
    (kept,) = tally.record()["faults"][0]["remarks"]
    assert kept == "File \"stage.py\", line 3\nmount: PosixPath('b') of data/x/y.npy, a/b"


def test_the_summary_tells_how_to_repeat_a_fault() -> None:
    from tests.faults.recovery import Outcome

    tally = Tally("python -m tests.faults --faults 200 --seed 3")
    tally.add(Fault(3, 0, Cell("SIGKILL", "stage")), Outcome("survived"), "", 1.0)
    tally.add(Fault(3, 17, Cell("deletion", "dvc.lock")), Outcome("lost"), "", 1.0)
    assert not tally.is_good and tally.counts["injected"] == 2
    assert (
        "lost: deletion: dvc.lock; again: python -m tests.faults --faults 200 --seed 3 --only 17"
        in tally.summary()
    )
