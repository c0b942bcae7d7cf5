"""Run one stage through DVC: `python -m workflow.run STAGE`. The rules of the Snakefile call it.

DVC skips the stage if its inputs came out the same, restores its outputs if the run cache (here or in the remote)
has them, and runs its command otherwise. This also waits for a run of the same stage that outlived an earlier
snakemake, clears what dead processes left, passes signals on, and keeps dvc.lock in order.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from medunifier.runtime.errors import user_message
from medunifier.runtime.files import write_text
from workflow import dvc_repair, lockfile, locks, remote
from workflow.changes import STATE, read_plan
from workflow.verify import discard_damaged, refill_cache

if TYPE_CHECKING:
    from dvc.repo import Repo

BUSY_PAUSE = 2.0  # seconds between two attempts while another DVC works on the same paths
LOG_TAIL = 30  # lines shown of the log of a stage that failed


def run_stage(name: str) -> str:
    """Bring one stage up to date; returns `ran`, `restored` (from cache, here or in the remote) or `unchanged`.

    Waits while another DVC, such as a `dvc repro` by hand, works on paths of the stage.

    Raises DVC's ReproductionError if the stage's command fails.
    """
    from dvc.lock import LockError

    stage_lock = STATE / "locks" / name
    with locks.exclusive(stage_lock, waiting=f"{name} still runs from an earlier start; waiting for it"):
        announced = False
        while True:
            try:
                return _bring_up_to_date(dvc_repair.open_repo(), name)
            except Exception as error:
                busy = next((cause for cause in _causes(error) if isinstance(cause, LockError)), None)
                if busy is None or "is busy" not in str(busy):
                    if dvc_repair.repair():
                        continue
                    raise
                if not announced:
                    first, *_ = str(busy).splitlines()
                    print(f"[{name}] waiting for another DVC: {first}", flush=True)
                announced = True
                time.sleep(BUSY_PAUSE)


def _bring_up_to_date(repo: Repo, name: str) -> str:
    """Bring one stage up to date, or raise a LockError if another process works on its paths."""
    from dvc.repo import lock_repo

    repo.scm_context.quiet = True  # no advice on `git add`
    restored = _note_restores(repo)
    lockfile.write_entries_alone()
    locks.end_orphans(name, Path(repo.root_dir))
    with lock_repo(repo):  # DVC lets go of it while the stage's command runs
        (stage,) = repo.stage.collect(name)
        _clear_run_cache(repo)
        locks.clear_dvc_locks([part.fs_path for part in stage.deps], [part.fs_path for part in stage.outs])
        logging.getLogger("dvc").setLevel(logging.INFO)  # has its own handler
        absent = any(not out.exists for out in stage.outs)
        refill_cache(repo, stage)
        # The main process has fetched it, for all stages.
        repo.stage_cache.pull = lambda *_: None  # pyright: ignore[reportAttributeAccessIssue]  # a method of DVC's
        done = repo.reproduce(  # pyright: ignore[reportCallIssue]  # DVC binds the function as a method
            targets=[name], single_item=True, pull=remote.is_reached()
        )
        if restored and discard_damaged(repo, name):
            restored = []
            repo.reproduce(targets=[name], single_item=True, force=True)  # pyright: ignore[reportCallIssue]
        lockfile.canonicalise(list(read_plan()))
    if done:
        return "restored" if restored else "ran"
    return "restored" if absent else "unchanged"


def _clear_run_cache(repo: Repo) -> None:
    """Remove empty folders from DVC's run cache: a kill or a full disk leaves one, and DVC fails at it ever after."""
    for folder in Path(repo.stage_cache.cache_dir).glob("*/*"):
        if folder.is_dir() and not any(folder.iterdir()):
            with contextlib.suppress(OSError):  # another user's, in a cache that is shared
                folder.rmdir()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def _note_restores(repo) -> list[str]:
    """A list that will hold the name of every stage that `repo` restores from the run cache."""
    restored: list[str] = []
    restore = repo.stage_cache.restore

    def watched(stage, *args, **kwargs):
        restore(stage, *args, **kwargs)  # raises if the run cache has nothing for this stage
        restored.append(stage.name)

    repo.stage_cache.restore = watched
    return restored


def main() -> int:
    """Run the stage of the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workflow.run", description=__doc__)
    parser.add_argument("--cpus", type=int, default=1, help="cores that the stage may use")
    parser.add_argument(
        "--log", type=Path, help="file for everything that the stage prints; default: the terminal"
    )
    parser.add_argument("stage", help="a stage of dvc.yaml, such as `dvc stage list` prints them")
    arguments = parser.parse_args()

    terminal, log = os.dup(2), None
    try:
        with contextlib.ExitStack() as stack:
            if arguments.log:
                _print_to(arguments.log)
                log = arguments.log
                stack.enter_context(_relayed(log, arguments.stage, terminal))
            _set_environment(arguments.cpus)
            _handle_signals()
            outcome = run_stage(arguments.stage)
        write_text(STATE / "outcomes" / arguments.stage, outcome + "\n", shared=True)
    except Exception as error:
        story = _explain(error)
        with contextlib.suppress(OSError):  # the disk of the log is full
            print(story, file=sys.stderr, flush=True)
        if log:
            text = log.read_text(encoding="utf-8", errors="replace")
            tail = text.splitlines()[-LOG_TAIL:] + ([] if story in text else [story])
            os.write(terminal, "\n".join([*tail, f"(all of it: {log})", ""]).encode())
        return 1
    return 0


def _print_to(log: Path) -> None:
    """Send standard output and error, also those of every child process, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


@contextlib.contextmanager
def _relayed(log: Path, stage: str, terminal: int) -> Iterator[None]:
    """Copy the stage's reports of progress from its log to `terminal` meanwhile, to the last one."""
    ended = threading.Event()
    relay = threading.Thread(target=_relay, args=(log, stage, terminal, ended), daemon=True)
    relay.start()
    try:
        yield
    finally:
        ended.set()
        relay.join()


def _relay(log: Path, stage: str, terminal: int, ended: threading.Event) -> None:
    """Copy each text that begins with the stage's name from its log to `terminal`, until the log has `ended`."""
    start = f"[{stage}]".encode()
    last = False
    with log.open("rb") as file:
        while True:
            line = file.readline()
            if line.endswith(b"\n"):
                place = line.rfind(start)  # a progress bar may stand before it
                if place >= 0:
                    os.write(terminal, line[place:])
            elif last:
                return
            else:  # the end so far, perhaps in the middle of a line
                file.seek(-len(line), os.SEEK_CUR)
                last = ended.wait(0.5)  # what came before the end is still to be read


def _set_environment(cpus: int) -> None:
    """`python` in a stage's command is this very Python, and libraries start no more threads than cores."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ.setdefault(variable, str(cpus))


def _handle_signals() -> None:
    """Pass SIGTERM (scancel, requeue) on to the stage, which saves and ends; DVC then tidies up.

    SIGUSR1, a cluster's early warning, reaches every process of a job: it is for the stage alone.
    """
    import psutil

    def pass_on(number, frame):
        for child in psutil.Process().children(recursive=True):
            child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _explain(error: Exception) -> str:
    """DVC's own errors with their causes, one line each, and anything else with its traceback."""
    from dvc.exceptions import DvcException

    if message := user_message(error):
        return message
    if not isinstance(error, DvcException):
        return "".join(traceback.format_exception(error)).rstrip()
    lines, cause = [], error
    while cause is not None:
        lines.append(str(cause))
        cause = cause.__cause__ if isinstance(cause, DvcException) else None
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
