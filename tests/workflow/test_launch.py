"""How a stage is started on what a job was given: the commands, and two real processes that train or decode."""

import contextlib
import os
import subprocess
import sys

import pytest

from medunifier.runtime import processes
from tests.support.paths import REPO
from workflow import launch


@pytest.fixture
def started(monkeypatch):
    """What `launch.main` becomes: the commands it would go on as, or the module it runs."""
    for name in list(os.environ):
        if name.startswith("SLURM") or name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", launch.ON_NODE):
            monkeypatch.delenv(name)
    for name in ("ACCELERATE_USE_CPU", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", launch.ON_NODE):
        monkeypatch.setenv(name, "")  # so that the test's end undoes what `main` sets
        monkeypatch.delenv(name)
    calls = []

    def become(command):
        calls.append(command)
        raise SystemExit

    monkeypatch.setattr(launch, "become", become)
    monkeypatch.setattr(launch.runpy, "run_module", lambda name, **_: calls.append(name))
    monkeypatch.setattr(launch, "slurm_job", dict)
    monkeypatch.setattr(launch.signal, "signal", lambda *_: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setattr(sys, "argv", [])

    def start(*words, gpus=0, **environment):
        monkeypatch.setattr(launch, "gpu_count", lambda: gpus)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with contextlib.suppress(SystemExit):
            launch.main(*words)
        return calls.pop()

    return start


def option(command: list[str], name: str) -> str:
    return command[command.index(f"--{name}") + 1]


def test_alone_it_is_the_stage_itself(started):
    assert started("pretrain", "full") == "stages.pretrain"
    assert sys.argv == ["pretrain", "full"]
    assert started("pretrain", "full", gpus=1) == "stages.pretrain"
    assert started("decode_images", "phantom", gpus=4) == "stages.decode_images"


def test_all_gpus_of_one_machine(started):
    command = started("pretrain", "full", gpus=4)
    assert command[1:4] == ["-m", "accelerate.commands.launch", "--multi_gpu"]
    assert (option(command, "num_machines"), option(command, "num_processes")) == ("1", "4")
    assert option(command, "num_cpu_threads_per_process") == "2"
    assert command[-3:] == ["--module", "stages.pretrain", "full"]
    assert "ACCELERATE_USE_CPU" not in os.environ


def test_several_nodes_meet_at_the_first(started, monkeypatch):
    """Slurm is asked where Snakemake has hidden its variables."""
    monkeypatch.setattr(launch, "slurm_job", lambda: {"nodes": 2, "cores": 8.0})
    command = started("pretrain", "full", gpus=4)
    assert command[0] == "srun" and {"--nodes=2", "--ntasks=2", "--cpus-per-task=8"} <= set(command)
    assert command[-4:] == ["-m", "workflow.launch", "pretrain", "full"]
    host, _, port = os.environ[launch.ON_NODE].rpartition(":")
    on_node = started("pretrain", "full", gpus=4, SLURM_JOB_NUM_NODES="2", SLURM_PROCID="1")
    assert option(on_node, "num_processes") == "8" and option(on_node, "machine_rank") == "1"
    assert (option(on_node, "main_process_ip"), option(on_node, "main_process_port")) == (host, port)
    started("pretrain", "full", gpus=0)
    assert os.environ["ACCELERATE_USE_CPU"] == "true"


def test_other_stages_run_once_on_each_node(started):
    started("decode_images", "phantom", SLURM_JOB_NUM_NODES="3")
    assert started("decode_images", "phantom", SLURM_PROCID="2") == "stages.decode_images"
    assert processes.place() == (2, 3)


def test_without_srun_it_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="srun: not found"):
        launch.become(["srun", "--nodes=2"])


@pytest.mark.slow
def test_processes_wait_for_the_slowest(tmp_path):
    """Two processes; the first finds what the second, slower one has left before it went on."""
    code = (
        "import os, pathlib, sys, time; from medunifier.runtime.processes import place, wait_for_all\n"
        "rank, processes = place()\n"
        "time.sleep(rank); pathlib.Path(sys.argv[1], str(rank)).touch(); wait_for_all()\n"
        "print(len(list(pathlib.Path(sys.argv[1]).iterdir())), processes)\n"
    )
    host, _, port = launch.meeting_point().rpartition(":")
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(REPO)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            env=os.environ | place | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    assert host
    assert [process.communicate(timeout=120)[0] for process in processes] == ["2 2\n", "2 2\n"]
