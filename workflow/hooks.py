"""What the main snakemake process does before the first job and after the last."""

import sys
from typing import IO

from medunifier.runtime.errors import InputError
from workflow import locks, remote
from workflow.changes import STAMPS, STATE, Stage

_held: list[IO] = []  # run.lock, open until this process ends


def before_run() -> None:
    """Claim the folder for this run, get the MLflow store ready for many writers at once, and ask DVC's remote.

    Raises InputError if another snakemake runs here, or if the store cannot be used.
    """
    with locks.exclusive(STATE / "sync.lock"):
        lock = locks.hold_until_exit(STATE / "run.lock")
    if lock is None:
        raise InputError(
            f"another snakemake runs in this folder ({locks.owner(STATE / 'run.lock')}); wait for it"
        )
    _held.append(lock)

    from medunifier.tracking import prepare_store

    prepare_store()
    remote.fetch_run_cache()


def after_run(stages: dict[str, Stage]) -> None:
    """Let MLflow's parent run of this configuration know every stage that is up to date, also those whose
    results came from the cache or from an earlier run. A store that fails now costs no finished run its success.
    """
    from medunifier.tracking import adopt

    try:
        adopt([name for name in stages if (STAMPS / name).exists()])
    except InputError as error:
        print(
            f"MLflow: {error}\nMLflow does not yet show every stage of this run; when it works again: "
            "python -m medunifier.tracking adopt",
            file=sys.stderr,
        )
