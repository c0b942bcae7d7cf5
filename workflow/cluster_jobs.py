"""What becomes of this run's Slurm jobs when snakemake is interrupted: they are ended, and the last line says which."""

import atexit
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

FINISHED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
}
PATIENCE = 60  # seconds for Slurm's answer


@dataclass(frozen=True)
class Job:
    """One Slurm job of a run."""

    number: str
    state: str  # as squeue writes it in full
    stage: str


def report_at_exit(workflow: Any) -> None:
    """Call `end_jobs` when this process ends, however Snakemake ends it; nothing without the executor `slurm`.

    Snakemake itself cancels what it knows to run, but not a job whose submission Ctrl-C overtakes, and names none.
    """
    # Snakemake gives jobs no name but this; its executor has no public door to it.
    run = getattr(workflow.scheduler._executor, "run_uuid", None)
    if run is not None:
        atexit.register(end_jobs, run)


def forget() -> None:
    """Undo `report_at_exit`: the run has ended well."""
    atexit.unregister(end_jobs)


def end_jobs(run: str) -> None:
    """Cancel the jobs of a run that have not finished; print which were ended and which are left.

    Args:
        run: the name that all its jobs have.
    """
    try:
        if alive := [job.number for job in latest_jobs(run) if job.state not in {*FINISHED, "COMPLETING"}]:
            _ask("scancel", *alive)
        jobs = latest_jobs(run)
    except (OSError, subprocess.SubprocessError) as error:
        print(
            f"Slurm does not answer ({error}). Jobs of this run may be left: squeue --me --name {run}; "
            f"to end them: scancel --me --name {run}",
            file=sys.stderr,
        )
        return
    ended = [job for job in jobs if job.state in ("CANCELLED", "COMPLETING")]
    if left := [job for job in jobs if job.state not in FINISHED and job not in ended]:
        numbers = " ".join(job.number for job in left)
        print(f"Jobs left on the cluster: {_named(left)}; to end them: scancel {numbers}", file=sys.stderr)
    if ended:
        print(
            f"Jobs ended on the cluster: {_named(ended)}. Training saves before it ends; the same command "
            "continues the run.",
            file=sys.stderr,
        )


def latest_jobs(run: str) -> list[Job]:
    """Return the newest job of each stage of a run, oldest first."""
    lines = _ask("squeue", "--me", "-h", "-t", "all", "-S", "i", "--name", run, "-o", "%i|%T|%k").splitlines()
    jobs = {}
    for number, state, comment in (line.split("|", 2) for line in lines):
        family, _, item = comment.removeprefix("rule_").partition("_wildcards_")
        stage = f"{family}@{item}" if item else family
        jobs.pop(stage, None)
        jobs[stage] = Job(number, state, stage)
    return list(jobs.values())


def _named(jobs: list[Job]) -> str:
    return ", ".join(f"{job.stage} (job {job.number})" for job in jobs)


def _ask(*command: str) -> str:
    """Return what a Slurm command prints; it is not interrupted by a second Ctrl-C."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=True, start_new_session=True
    )
    return done.stdout
