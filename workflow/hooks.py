"""What the main snakemake process does once it has planned, before the first job and after the last."""

import sys
from pathlib import Path
from typing import IO, Any

from medunifier.runtime.errors import InputError, user_message
from medunifier.runtime.params import load_params
from medunifier.tracking import adopt, begin_run
from workflow import cluster_jobs, locks, remote
from workflow.changes import STAMPS, STATE, Stage

SIMULATED = Path("data/simulated")  # the output of the stage simulate
_READS_IMAGES = ("prepare", "decode_images")
_held: list[IO] = []  # run.lock, open until this process ends


def warn_of_absent_images(stages: dict[str, Stage]) -> None:
    """Print a warning for each data set that is to be prepared or decoded and has no image below its root.

    DVC sees the index files alone; without this, a plan of many hours would end at its first stage.
    """
    due = {
        name.partition("@")[2]
        for name, stage in stages.items()
        if stage.family in _READS_IMAGES and stage.changed
    }
    for name, settings in load_params().datasets.items() if due else ():
        root = Path(settings.root)
        if name not in due or root.is_relative_to(SIMULATED):
            continue
        # Imported here: polars takes a fifth of a second, and most plans have nothing to prepare.
        from medunifier.data.dataset_files import has_images

        if not has_images(root):
            what = f"no image file below {root}" if root.is_dir() else f"no folder {root}"
            print(
                f"WARNING: datasets.{name}: {what}. prepare@{name} will reject every image and stop what reads it. "
                f"See what is missing: python -m stages.prepare --check {name}",
                file=sys.stderr,
            )


def before_run(workflow: Any) -> None:
    """Claim the folder for this run, start the uploader, check the MLflow store, and ask DVC's remote.

    Args:
        workflow: Snakemake's, whose jobs on a cluster are ended and named if it is interrupted.

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
    cluster_jobs.report_at_exit(workflow)


def after_run(stages: dict[str, Stage]) -> None:
    """Show in MLflow's run of this configuration every stage that is up to date, and wait until all is sent.

    That includes stages whose results came from the cache or from an earlier run. A store that fails now does not
    make a finished run fail.
    """
    try:
        adopt([name for name in stages if (STAMPS / name).exists()])
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        print(
            f"MLflow: {message}\nMLflow does not yet show everything of this run; when it works again: "
            "python -m medunifier.tracking upload",
            file=sys.stderr,
        )
