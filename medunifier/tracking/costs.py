"""Costs of an execution of a stage: time, processor, memory, and what Slurm allocated to it."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Collection
from pathlib import Path

from medunifier.runtime.processes import slurm_job
from medunifier.tracking import provenance
from medunifier.tracking.settings import now, state_folder

# When this process started: so far it has done nothing but import.
STARTED = time.monotonic() - time.process_time()
# The record of each stage's execution; DVC keeps it with the results.
RECORDS = Path("results/runs")


def started() -> int:
    """Return when this process started, in milliseconds since 1970."""
    return now() - round(1000 * (time.monotonic() - STARTED))


def history() -> Path:
    """Return the folder with the record of each stage's last finished execution here."""
    return state_folder().parent / "costs"


def record_path(stage: str, outputs: Collection[str]) -> Path:
    """Return where a stage leaves its record.

    That is in RECORDS, or in `results/` if dvc.yaml lists it there, for a stage that reads RECORDS.
    """
    beside = Path(f"results/{stage}_run.json")
    return beside if str(beside) in outputs else RECORDS / f"{stage}.json"


def measure() -> dict[str, float]:
    """Measure the costs of this process and its children since it started, imports included.

    Returns:
        `wall_seconds`, `cpu_seconds`, `peak_memory_mib`, `nodes`, `cores` (of this process), `gpus` (of all nodes),
        `cpu_efficiency` (cpu_seconds over wall_seconds x cores); in a Slurm job also `queue_seconds` and
        `memory_efficiency` (peak over what was requested). Of a distributed stage the first process measures itself.
    """
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    kibibyte = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss
    wall = time.monotonic() - STARTED
    costs = {
        "wall_seconds": wall,
        "cpu_seconds": cpu_seconds(),
        "peak_memory_mib": max(own.ru_maxrss, children.ru_maxrss) * kibibyte / 2**20,
        "nodes": 1,
        "gpus": float(provenance.device() != "cpu"),
    }
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    job = slurm_job()
    if job:
        costs |= {name: float(job[name]) for name in ("nodes", "gpus", "queue_seconds")}
        costs["cores"] = max(1.0, float(job["cores"]) / processes)
        if job["memory_mib"]:
            costs["memory_efficiency"] = processes * costs["peak_memory_mib"] / float(job["memory_mib"])
    else:
        costs["cores"] = max(1, len(os.sched_getaffinity(0)) // processes)
    costs["cpu_efficiency"] = costs["cpu_seconds"] / (max(wall, 1e-9) * costs["cores"])
    return costs


def cpu_seconds() -> float:
    """Return the processor time of this process, its children that have ended, and its workers that still live."""
    while True:
        workers = multiprocessing.active_children()  # a pool's processes may outlive the pool for a moment
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        ended = sum(part.ru_utime + part.ru_stime for part in usage)
        if not workers:
            return ended
        import psutil  # most stages have no workers, and spare themselves the import

        try:
            times = [psutil.Process(worker.pid).cpu_times() for worker in workers]
        except psutil.NoSuchProcess:
            continue  # one has ended meanwhile: now it is among the children
        return ended + sum(part.user + part.system for part in times)


def tags() -> dict[str, str]:
    """Return the kind of accelerator: as PyTorch names it, else as Slurm does; `none` without one."""
    device = provenance.device()
    return {
        "device": device,
        "gpu_type": device if device != "cpu" else str(slurm_job().get("gpu_type") or "none"),
    }
