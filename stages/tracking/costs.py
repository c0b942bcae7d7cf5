"""What an execution of a stage has cost: time, processor, memory, and what Slurm gave it."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Collection
from datetime import datetime
from functools import cache
from pathlib import Path

from stages.tracking import provenance
from stages.tracking.interface import state_folder

STARTED = time.monotonic() - time.process_time()  # of this process: so far it has done nothing but import
RECORDS = Path("results/runs")  # the record of each stage's execution; DVC keeps it with the results


def history() -> Path:
    """Folder with the record of each stage's last finished execution here, whatever became of its results."""
    return state_folder().parent / "costs"


def record_path(stage: str, outputs: Collection[str]) -> Path:
    """Where a stage leaves its record: in RECORDS, or beside it if dvc.yaml says so (for a stage that reads RECORDS)."""
    beside = Path(f"results/{stage}_run.json")
    return beside if str(beside) in outputs else RECORDS / f"{stage}.json"


def measure() -> dict[str, float]:
    """Costs of this process and its children since it started, imports included.

    `wall_seconds`, `cpu_seconds`, `peak_memory_mib`, `nodes`, `cores` (of this process), `gpus` (of all nodes),
    `cpu_efficiency` (cpu_seconds over wall_seconds x cores); in a Slurm job also `queue_seconds` and
    `memory_efficiency` (peak over what was asked for). Of a distributed stage the first process measures itself.
    """
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    kibibyte = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss
    wall = time.monotonic() - STARTED
    costs = {
        "wall_seconds": wall,
        "cpu_seconds": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
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


def tags() -> dict[str, str]:
    """Kind of accelerator: as PyTorch names it, else as Slurm does; `none` without one."""
    device = provenance.device()
    return {
        "device": device,
        "gpu_type": device if device != "cpu" else slurm_job().get("gpu_type") or "none",
    }


@cache
def slurm_job() -> dict[str, float | str]:
    """What Slurm says of the job around this process: nodes, cores and memory_mib on each, gpus in all, gpu_type,
    queue_seconds from submission to start. Empty outside a job, or when Slurm does not answer."""
    number = os.environ.get("SLURM_JOB_ID")
    if not number:
        return {}
    try:
        command = ["scontrol", "--details", "--oneliner", "show", "job", number]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return parse_job(done.stdout)
    except (OSError, subprocess.SubprocessError, KeyError, ValueError):
        return {}


def parse_job(text: str) -> dict[str, float | str]:
    """The line that `scontrol --details --oneliner show job` prints. KeyError if it lacks what is needed."""
    fields = dict(re.findall(r"(\S+?)=(\S*)", text))
    nodes = int(fields["NumNodes"].partition("-")[0])
    memory = re.search(r"mem=([\d.]+)([KMGT]?)", fields.get("TRES", ""))
    factor = {"K": 2**-10, "M": 1, "": 1, "G": 2**10, "T": 2**20}
    cards = re.findall(r"gpu(?::([^:,()]+))?:(\d+)", fields.get("JOB_GRES", ""))
    submitted, started = (datetime.fromisoformat(fields[key]) for key in ("SubmitTime", "StartTime"))
    return {
        "nodes": nodes,
        "cores": int(fields["NumCPUs"].partition("-")[0]) / nodes,
        "memory_mib": float(memory[1]) * factor[memory[2]] / nodes if memory else 0,
        "gpus": sum(int(number) for _, number in cards),
        "gpu_type": next((kind for kind, _ in cards if kind), "gpu" if cards else ""),
        "queue_seconds": max(0.0, (started - submitted).total_seconds()),
    }
