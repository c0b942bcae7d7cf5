"""Provenance of a run: the commit, the machine, the job."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache

from medunifier.runtime.processes import is_on_slurm_node

CODE = ("stages", "medunifier", "params.yaml", "dvc.yaml")


def tags(stage: str, signature: str) -> dict[str, str]:
    """Return the tags of one execution of a stage; `device` is known better at its end."""
    return common() | {
        "dvc_stage": stage,
        "stage_signature": signature,
        "slurm_job_id": slurm_job_id(),
        "node": platform.node(),
        "device": device(),
        "mlflow.source.name": f"stages/{stage.split('@')[0]}.py",
        "mlflow.source.type": "LOCAL",
    }


def slurm_job_id() -> str:
    """Return the number of the Slurm job around this process, ARRAY_TASK in an array; `none` outside a job.

    A shell of `salloc` on the login node is outside.
    """
    if not is_on_slurm_node():
        return "none"
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return os.environ.get("SLURM_JOB_ID", "none")


def common() -> dict[str, str]:
    """Return the tags of every run: the commit, whether the code differs from it, the user."""
    commit = git("rev-parse", "HEAD")
    return {
        "git_commit": commit or "unknown",
        "git_dirty": str(bool(git("status", "--porcelain", "--", *CODE))).lower(),
        "mlflow.source.git.commit": commit or "unknown",
        "mlflow.user": os.environ.get("USER") or "unknown",
    }


@cache
def git(*arguments: str) -> str:
    """Return what git answers, or nothing where there is no git or no repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def device() -> str:
    """Return the accelerator that this process has used, or `cpu`. Does not import torch."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.get_device_name()
    return "cpu"
