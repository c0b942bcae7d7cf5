"""Kill anything at any moment: the same command then finishes the work without redoing what was done."""

import os
import signal

import psutil
import pytest

from tests.support.toy_pipeline import Toy, wait_for
from workflow import locks

COMMAND = "snakemake --cores 2"

# train@full notes its process id, then waits until the test says go; SIGTERM and SIGINT make it save and end.
WAIT_IN_TRAIN_FULL = """
import signal, time

if stage == "train@full" and not pathlib.Path("go.txt").exists():
    def save(*_):
        pathlib.Path("saved.txt").write_text("saved")
        sys.exit(1)

    signal.signal(signal.SIGTERM, save)
    signal.signal(signal.SIGINT, save)
    pathlib.Path("pid.txt").write_text(str(os.getpid()))
    while not pathlib.Path("go.txt").exists():
        time.sleep(0.05)
"""


@pytest.fixture
def waiting(done: Toy):
    """A started snakemake whose train@full waits; what lies behind it is left to do, too."""
    done.edit("params.yaml", "full: {weight: 1}", "full: {weight: 2}")
    done.write("hook.py", WAIT_IN_TRAIN_FULL)
    started = done.start(COMMAND)
    wait_for(lambda: done.read("pid.txt"))
    yield done, started
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(done.folder):
            process.kill()


def finish(toy: Toy) -> list[str]:
    """The same command once more; returns what it ran."""
    toy.write("go.txt", "")
    toy.ran()
    toy.call(COMMAND)
    assert toy.planned() == [] and toy.unclean() == []
    assert set(toy.locked()) >= {"train@full", "train@small", "score@full-b-b", "summarize"}
    return toy.ran()


def test_killed_stage(waiting) -> None:
    toy, started = waiting
    os.kill(int(toy.read("pid.txt")), signal.SIGKILL)
    started.wait(code=1)
    assert "failed to run: python stage.py train full" in started.text, "the log's end is shown"
    assert toy.unclean()
    assert finish(toy).count("train@full") == 1


def test_killed_snakemake_alone(waiting) -> None:
    """The stage lives on; its result is waited for and taken over."""
    toy, started = waiting
    started.kill(everything=False)
    again = toy.start(COMMAND)
    wait_for(lambda: "still runs from an earlier start" in toy.read(".state/logs/train@full.log"))
    toy.write("go.txt", "")
    again.wait()
    assert toy.ran().count("train@full") == 1
    assert toy.planned() == [] and toy.unclean() == []


def test_killed_with_everything(waiting) -> None:
    toy, started = waiting
    started.kill(everything=True)
    assert finish(toy).count("train@full") == 1


def test_killed_dvc_leaves_no_orphan(waiting) -> None:
    """A stage whose DVC is gone cannot be taken over: it is asked to save and end, then run again."""
    toy, started = waiting
    orphan = psutil.Process(int(toy.read("pid.txt")))
    runner = next(parent for parent in orphan.parents() if "workflow.run" in parent.cmdline())
    runner.kill()
    started.wait(code=1)
    assert orphan.is_running()
    again = toy.start(COMMAND)
    orphan.wait(120)
    assert toy.read("saved.txt") == "saved"
    toy.write("go.txt", "")
    again.wait()
    assert toy.planned() == [] and toy.unclean() == []


def test_sigterm_reaches_the_stage_and_sigusr1_does_no_harm(waiting) -> None:
    toy, started = waiting
    stage = psutil.Process(int(toy.read("pid.txt")))
    runner = next(parent for parent in stage.parents() if "workflow.run" in parent.cmdline())
    for process in (runner, *runner.children(recursive=True)):  # as Slurm does: every process of the job
        process.send_signal(signal.SIGUSR1)
    assert stage.is_running() and runner.is_running()
    runner.terminate()
    started.wait(code=1)
    assert toy.read("saved.txt") == "saved"
    assert '"write": {}' in toy.read(".dvc/tmp/rwlock") or "write" not in toy.read(".dvc/tmp/rwlock")
    assert finish(toy).count("train@full") == 1


@pytest.mark.parametrize("command", [COMMAND, "dvc repro"])
def test_ctrl_c_lets_the_stage_save_and_shows_no_traceback(done: Toy, command: str) -> None:
    """A terminal sends SIGINT to every process of the command."""
    done.edit("params.yaml", "full: {weight: 1}", "full: {weight: 2}")
    done.write("hook.py", WAIT_IN_TRAIN_FULL)
    started = done.start(command)
    wait_for(lambda: done.read("pid.txt"))
    os.killpg(started.process.pid, signal.SIGINT)
    started.process.join(120)
    assert started.process.exitcode not in (0, None)
    assert done.read("saved.txt") == "saved"
    assert "Traceback" not in started.text and "KeyboardInterrupt" not in started.text, started.text
    log = done.read(".state/logs/train@full.log")
    assert "Traceback" not in log and "KeyboardInterrupt" not in log, log
    assert finish(done).count("train@full") == 1


def test_ctrl_c_while_planning_shows_no_traceback(done: Toy) -> None:
    lock = done.folder / ".state/sync.lock"
    with locks.exclusive(lock):  # the plan waits for it
        started = done.start(COMMAND)
        planning = psutil.Process(started.process.pid)
        wait_for(
            lambda: any(
                str(lock) in str(p.open_files()) for p in (planning, *planning.children(recursive=True))
            )
        )
        os.killpg(started.process.pid, signal.SIGINT)
        text = started.wait(code=1)
    assert "interrupted while the stages were planned; nothing has run" in text
    assert "Traceback" not in text and "KeyboardInterrupt" not in text, text
    assert finish(done) == []


def test_second_snakemake_leaves_the_first_alone(waiting) -> None:
    toy, started = waiting
    stamps = {path.name: path.stat().st_mtime_ns for path in (toy.folder / ".state/stamps").iterdir()}
    plan = (toy.folder / ".state/plan.json").stat().st_mtime_ns
    assert "train@full" in toy.planned(), "a dry run shows what the first still has to do"
    second = toy.call(COMMAND, code=1)
    assert "Directory cannot be locked" in second or "another snakemake runs in this folder" in second
    after = {path.name: path.stat().st_mtime_ns for path in (toy.folder / ".state/stamps").iterdir()}
    assert stamps.items() <= after.items()
    assert (toy.folder / ".state/plan.json").stat().st_mtime_ns == plan
    toy.write("go.txt", "")
    started.wait()
    assert toy.planned() == []


def test_killed_while_dvc_records_a_run(done: Toy) -> None:
    """DVC makes a folder in its run cache, then a file in it. It fails whenever it finds the folder empty."""
    for entry in (done.folder / ".dvc/cache/runs").glob("*/*/*"):
        entry.unlink()
    (done.folder / "dvc.lock").unlink()
    assert finish(done).count("train@full") == 1
