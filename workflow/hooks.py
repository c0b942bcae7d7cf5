"""What the main snakemake process does before the first job and after the last."""

import sys
from typing import IO

from medunifier.runtime.errors import InputError
from medunifier.tracking import adopt, begin_run
from workflow import locks, remote
from workflow.changes import STAMPS, STATE, Stage

_held: list[IO] = []  # run.lock, open until this process ends


def before_run() -> None:
    """Claim the folder for this run, start the uploader, check the MLflow store, and ask DVC's remote.

    Raises:
        InputError: If another snakemake runs here, or if the store cannot be used.
    """
    with locks.exclusive(STATE / "sync.lock"):
        lock = locks.hold_until_exit(STATE / "run.lock")
    if lock is None:
        raise InputError(
            f"another snakemake runs in this folder ({locks.owner(STATE / 'run.lock')}); wait for it"
        )
    _held.append(lock)
    begin_run()
    remote.fetch_run_cache()


def after_run(stages: dict[str, Stage]) -> None:
    """Show in MLflow's run of this configuration every stage that is up to date, and wait until all is sent.

    That includes stages whose results came from the cache or from an earlier run. A store that fails now does not
    make a finished run fail.
    """
    try:
        adopt([name for name in stages if (STAMPS / name).exists()])
    except InputError as error:
        print(
            f"MLflow: {error}\nMLflow does not yet show everything of this run; when it works again: "
            "python -m medunifier.tracking upload",
            file=sys.stderr,
        )
