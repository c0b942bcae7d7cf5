"""Processes that run a stage together, and the Slurm job around them."""

import os
import re
import subprocess
from datetime import datetime, timedelta
from functools import cache

LONGEST_WAIT = timedelta(days=7)  # for a process with more to do; should one fail, Slurm ends the others


def place() -> tuple[int, int]:
    """Return this process's rank among those that run the stage together, and their number."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_all() -> None:
    """Return when every process of the stage has reached this point. Needs the environment of `workflow.launch`."""
    if place()[1] == 1:
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    dist.barrier()
    dist.destroy_process_group()


def is_on_slurm_node() -> bool:
    """Return whether a Slurm job runs this process on one of its nodes.

    A shell of `salloc` on the login node has the job's variables, too, but Slurm sets SLURMD_NODENAME on nodes alone.
    """
    return "SLURM_JOB_ID" in os.environ and "SLURMD_NODENAME" in os.environ


@cache
def slurm_job() -> dict[str, float | str]:
    """Return what Slurm reports of the job around this process.

    Returns:
        nodes, cores and memory_mib per node, gpus in all, gpu_type, queue_seconds from submission to start. Empty
        outside a job, or when Slurm does not answer.
    """
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
    """Parse the line that `scontrol --details --oneliner show job` prints; see `slurm_job`.

    Raises:
        KeyError: The line lacks a field that is needed.
    """
    fields = dict(re.findall(r"(\S+?)=(\S*)", text))
    nodes = int(fields["NumNodes"].partition("-")[0])
    memory = re.search(r"mem=([\d.]+)([KMGT]?)", fields.get("TRES", ""))
    factor = {"K": 2**-10, "M": 1, "": 1, "G": 2**10, "T": 2**20}
    gpus = re.findall(r"gpu(?::([^:,()]+))?:(\d+)", fields.get("JOB_GRES", ""))
    submitted, started = (datetime.fromisoformat(fields[key]) for key in ("SubmitTime", "StartTime"))
    return {
        "nodes": nodes,
        "cores": int(fields["NumCPUs"].partition("-")[0]) / nodes,
        "memory_mib": float(memory[1]) * factor[memory[2]] / nodes if memory else 0,
        "gpus": sum(int(number) for _, number in gpus),
        "gpu_type": next((kind for kind, _ in gpus if kind), "gpu" if gpus else ""),
        "queue_seconds": max(0.0, (started - submitted).total_seconds()),
    }
