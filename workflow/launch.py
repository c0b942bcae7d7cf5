"""python -m workflow.launch STAGE ARGUMENT...: run a stage on every machine and GPU that it was given.

Without a cluster and with one card or none, this is `python -m stages.STAGE`. In a Slurm job of several nodes, one
copy of this command starts on each node. A trained stage (TRAINED) then runs once per GPU, under `accelerate launch`,
or once per node over gloo where there is no GPU; any other runs once per node. Each process finds its place in
RANK and WORLD_SIZE, as PyTorch has it; only the first reports to MLflow and writes metrics.
"""

import os
import runpy
import shutil
import signal
import socket
import sys

from medunifier.runtime.processes import slurm_job

TRAINED = ("pretrain", "train_prior")
ON_NODE = "MEDUNIFIER_HEAD"  # set on every node: HOST:PORT at which the processes find each other


def main(stage: str, *arguments: str) -> None:
    """Become the stage, or the launcher of its processes."""
    from medunifier.stage import set_library_defaults

    signal.signal(
        signal.SIGUSR1, signal.SIG_IGN
    )  # a cluster's early warning; training has a handler of its own
    set_library_defaults()
    nodes = node_count()
    if nodes > 1 and ON_NODE not in os.environ:
        os.environ[ON_NODE] = meeting_point()
        become(srun_command(nodes, stage, arguments))
    if stage in TRAINED:
        gpus = gpu_count()
        if nodes * max(gpus, 1) > 1:
            if not gpus:
                os.environ["ACCELERATE_USE_CPU"] = "true"
            become(accelerate_command(nodes, gpus, stage, arguments))
    elif nodes > 1:
        host, _, port = os.environ[ON_NODE].rpartition(":")
        os.environ |= {"RANK": os.environ["SLURM_PROCID"], "WORLD_SIZE": str(nodes)}
        os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": port}
    sys.argv = [stage, *arguments]
    runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)


def node_count() -> int:
    """Machines of the Slurm job that this process belongs to; 1 outside a job.

    Snakemake hides most of Slurm's variables from a job's command, hence the question to Slurm itself.
    """
    return int(os.environ.get("SLURM_JOB_NUM_NODES") or slurm_job().get("nodes", 1))


def gpu_count() -> int:
    """GPUs that PyTorch finds on this machine."""
    import torch

    return torch.cuda.device_count()


def meeting_point() -> str:
    """HOST:PORT on this machine, the first of the job: a port that is free now."""
    with socket.create_server(("", 0)) as server:
        return f"{socket.gethostname()}:{server.getsockname()[1]}"


def srun_command(nodes: int, stage: str, arguments: tuple[str, ...]) -> list[str]:
    """One task on each node of the job, which may use all that the job has there; all end if one fails."""
    options = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--overlap", "--mem=0"]
    options += ["--kill-on-bad-exit=1", "--cpu-bind=none", "--export=ALL"]
    if cores := slurm_job().get("cores"):
        options.append(f"--cpus-per-task={int(cores)}")
    return ["srun", *options, sys.executable, "-m", "workflow.launch", stage, *arguments]


def accelerate_command(nodes: int, gpus: int, stage: str, arguments: tuple[str, ...]) -> list[str]:
    """`accelerate launch` of this node's processes: one for each GPU, or one where there is none."""
    host, _, port = os.environ.get(ON_NODE, "127.0.0.1:0").rpartition(":")
    options = {
        "num_machines": nodes,
        "num_processes": nodes * max(gpus, 1),
        "machine_rank": os.environ.get("SLURM_PROCID", "0") if nodes > 1 else 0,
        "main_process_ip": host,
        "main_process_port": port,
        "mixed_precision": "no",  # the recipe's precision is set where the training loop starts
        "dynamo_backend": "no",
        "num_cpu_threads_per_process": max(1, int(os.environ["OMP_NUM_THREADS"]) // max(gpus, 1)),
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    return [*launcher, *flags, "--module", f"stages.{stage}", *arguments]


def become(command: list[str]) -> None:
    """Go on as another program, under this process id: signals reach it as before."""
    program = shutil.which(command[0])
    if program is None:
        sys.exit(f"{command[0]}: not found, though this is a Slurm job of several nodes; put it on PATH")
    sys.stdout.flush()
    os.execv(program, command)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
