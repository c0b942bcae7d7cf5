"""Who may work where: one running snakemake for a folder, one process for a stage; and what the dead left.

All locks here are flock: the system releases them when a process dies, however it dies. What Snakemake and
DVC keep in files of their own outlives a kill -9 and is cleared here once it is certain that its owner is gone.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from medunifier.runtime.file_locks import exclusive, hold_until_exit, is_free, owner

SNAKEMAKE_LEFTOVERS = (Path(".snakemake/locks"), Path(".snakemake/incomplete"))
RWLOCK = Path(".dvc/tmp/rwlock")  # DVC's record of which process reads and writes which path
GRACE = 60  # seconds for an orphaned stage to save its checkpoint

__all__ = [
    "clear_dvc_locks",
    "clear_snakemake_locks",
    "end_orphans",
    "exclusive",
    "hold_until_exit",
    "is_alive",
    "is_free",
    "owner",
]


def clear_snakemake_locks() -> None:
    """Remove Snakemake's directory lock and its marks of half-done jobs; only for the owner of run.lock.

    Every output that Snakemake knows is a stamp, and whether a stamp holds is DVC's to say.
    """
    for folder in SNAKEMAKE_LEFTOVERS:
        for mark in folder.glob("*"):
            mark.unlink()


def clear_dvc_locks(reads: Sequence[str], writes: Sequence[str]) -> None:
    """Remove what dead processes left in DVC's rwlock and would keep a stage with these paths from starting.

    DVC itself drops entries whose process id is free; this drops also those whose id now belongs to another
    program (a restarted container counts from 1 again), and a record that a kill cut short.
    """
    from dvc.fs import localfs  # pyright: ignore[reportPrivateImportUsage]  # as DVC's own code imports it
    from dvc.lock import make_lock

    if not RWLOCK.exists():
        return
    with make_lock(str(RWLOCK) + ".lock", wait=True):
        try:
            record = json.loads(RWLOCK.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            RWLOCK.unlink()
            return

        def stale(path: str, entry: dict, waiters: Sequence[str]) -> bool:
            return any(localfs.overlaps(waiter, path) for waiter in waiters) and not is_alive(entry)

        for path, entry in list(record.get("write", {}).items()):
            if stale(path, entry, [*reads, *writes]):
                del record["write"][path]
        for path, entries in list(record.get("read", {}).items()):
            record["read"][path] = [entry for entry in entries if not stale(path, entry, writes)]
            if not record["read"][path]:
                del record["read"][path]
        RWLOCK.write_text(json.dumps(record), encoding="utf-8")


def end_orphans(stage: str, root: Path) -> None:
    """End processes of `stage` that outlived the DVC that started them: nobody can take over their results.

    SIGTERM first, so that training saves a checkpoint; SIGKILL after `GRACE` seconds.
    """
    import psutil

    orphans = [process for process in psutil.process_iter() if _is_orphan(process, stage, root)]
    for process in orphans:
        print(f"ending process {process.pid}, left over from an earlier run of {stage}", flush=True)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(orphans, timeout=GRACE)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _is_orphan(process, stage: str, root: Path) -> bool:
    """Whether DVC started `process` for `stage` and none of its ancestors is that DVC any more."""
    import psutil

    try:
        if process.uids().real != os.getuid():
            return False
        variables = process.environ()  # DVC sets both for the commands of its stages
        if variables.get("DVC_STAGE") != stage or variables.get("DVC_ROOT") != str(root):
            return False
        return not any(
            "workflow.run" in parent.cmdline() or any(Path(word).name == "dvc" for word in parent.cmdline())
            for parent in process.parents()
        )
    except psutil.Error:  # it has ended, or is not ours to look at
        return False


def is_alive(entry: dict) -> bool:
    """Whether the process of an rwlock entry still runs, and is the one that made the entry."""
    import psutil

    try:
        running = " ".join(psutil.Process(int(entry["pid"])).cmdline())
    except psutil.Error:
        return False
    return running.endswith(entry["cmd"].partition(" ")[2])  # the first word may be a path or `python -m`
