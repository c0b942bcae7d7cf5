"""Do one thing that goes wrong to a sandbox."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.faults.catalogue import Cell
from tests.faults.damages import delete, flip_bit
from tests.faults.injury import LIMIT, SNAKEMAKE, Injury, Missed, commands, end, unfinished_stage
from tests.faults.sandbox import Command, Sandbox, send, send_group

LEFT = 2**17  # bytes that a full disk has left


def inject(sandbox: Sandbox, cell: Cell, chance: random.Random, haste: float) -> Injury:
    """Do what the cell says.

    Args:
        sandbox: A finished project; for some cells one that was interrupted in pre-training or has not run yet.
        cell: Kind and target.
        chance: Decides on stage, moment, file and byte.
        haste: Factor of the moment: below 1 after an attempt that came too late.

    Raises:
        Missed: It hit nothing.
        Stuck: A command did not end.
    """
    if cell.kind.startswith("SIG"):
        return _signal(sandbox, cell, chance, haste)
    if cell.kind == "disk full":
        return _with_disk(sandbox, cell.target, chance, haste, full_disk(sandbox.folder))
    if cell.kind == "read-only":
        places = [sandbox.folder / (cell.target if "all" not in cell.target else "")]
        return _with_disk(sandbox, cell.target, chance, haste, read_only(places))
    if cell.kind == "two starts":
        return _two_starts(sandbox, cell.target, chance)
    if cell.kind == "server":
        return _server(sandbox, cell.target, chance, haste)
    if cell.kind == "deletion":
        return delete(sandbox, cell.target, chance)
    return flip_bit(sandbox, cell.target, chance, keep_time=cell.kind == "flip, time kept")


def _await_moment(
    sandbox: Sandbox, running: Command, role: str, stage: str, chance: random.Random, haste: float
) -> None:
    """Wait for a random moment in the life of a process.

    Raises:
        Missed: The command has ended before.
    """
    early = chance.random() < 0.25 and role in ("snakemake", "dvc", "all")
    pause = haste * chance.random() * (4.0 if early else 0.8 * sandbox.durations[stage])
    if not early:  # else while it plans
        # `dvc repro` has no runner
        watched = "uploader" if role == "uploader" else "stage" if role == "dvc" else "runner"
        sandbox.wait_until(running, lambda: sandbox.find(watched, stage), LIMIT)
    time.sleep(pause)
    if role == "stage":  # its runner may still be loading DVC
        sandbox.wait_until(running, lambda: sandbox.find(role, stage), LIMIT)
    if not running.runs:
        raise Missed(f"`{running.words}` had ended")


def _signal(sandbox: Sandbox, cell: Cell, chance: random.Random, haste: float) -> Injury:
    number = signal.Signals[cell.kind]
    role = cell.target.partition(",")[0]
    if "from the beginning" in cell.target:
        stage, hit = next(iter(sandbox.pipeline.stages)), set(sandbox.pipeline.stages)
        haste *= 0.9 * sum(sandbox.durations.values()) / sandbox.durations[stage]
    else:
        stage = unfinished_stage(sandbox, chance)
        hit = {stage}
    command = commands(stage, chance)["dvc" if role == "dvc" else "snakemake"]
    if "from the beginning" in cell.target:
        command = SNAKEMAKE
    running = sandbox.start(command)
    _await_moment(sandbox, running, role, stage, chance, haste)
    if role in ("snakemake", "dvc") and number == signal.SIGINT:
        send_group(running.pid, number)  # Ctrl-C reaches the whole group
    elif role in ("snakemake", "dvc"):
        os.kill(running.pid, number)
    elif role == "all" and number == signal.SIGKILL:
        sandbox.kill_all()
    else:
        found = sandbox.processes() if role == "all" else sandbox.find(role, stage)
        if not found:
            raise Missed(f"the {role} of {stage} had ended")
        for process in found:
            send(process, number)
    end(running)
    return Injury(command, hit, f"{cell.kind} to {role} in {stage}", during=True, shown=running.text)


def _with_disk(sandbox: Sandbox, when: str, chance: random.Random, haste: float, trouble) -> Injury:
    stage = unfinished_stage(sandbox, chance)
    command = commands(stage, chance)["snakemake"]
    if "before the start" in when:
        with trouble:
            running = sandbox.start(command)
            end(running)
    else:
        running = sandbox.start(command)
        _await_moment(sandbox, running, "runner", stage, chance, haste)
        with trouble:
            end(running)
    return Injury(command, {stage}, f"{when}, in {stage}", during=True, shown=running.text)


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Take all but LEFT bytes of the sandbox's own file system."""
    filler = folder.parent / "filler"
    try:
        with filler.open("wb") as file:
            while (free := shutil.disk_usage(folder).free) > LEFT:
                with contextlib.suppress(OSError):  # others write at the same time
                    os.posix_fallocate(file.fileno(), filler.stat().st_size, free - LEFT)
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def read_only(places: list[Path]) -> Iterator[None]:
    """Mount folders over themselves, read-only; files that are open stay writable."""
    mounted = []
    try:
        for place in places:
            # Elsewhere first: a mount in which a file is open for writing cannot be made read-only.
            with tempfile.TemporaryDirectory() as elsewhere:
                subprocess.run(["mount", "--bind", place, elsewhere], check=True)
                try:
                    subprocess.run(["mount", "-o", "remount,bind,ro", elsewhere], check=True)
                    subprocess.run(["mount", "--bind", elsewhere, place], check=True)
                    mounted.append(place)
                finally:
                    subprocess.run(["umount", "--lazy", elsewhere], check=True)
        yield
    finally:
        for place in mounted:
            subprocess.run(["umount", "--lazy", place], check=True)


def _two_starts(sandbox: Sandbox, which: str, chance: random.Random) -> Injury:
    stage = unfinished_stage(sandbox, chance)
    programs = commands(stage, chance)
    first, second = (programs[word] for word in which.split())
    one = sandbox.start(first)
    time.sleep(3 * chance.random())
    other = sandbox.start(second)
    codes = [end(one), end(other)]
    injury = Injury(first, {stage}, f"{which} at {stage}: exit codes {codes}", during=True)
    injury.shown = one.text + other.text
    if all(codes):
        injury.what += "; each stopped the other"
    return injury


def _server(sandbox: Sandbox, how: str, chance: random.Random, haste: float) -> Injury:
    stage = unfinished_stage(sandbox, chance)
    command = commands(stage, chance)["snakemake"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sandbox.toy.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    if how == "is away at the start":
        running = sandbox.start(command)
        end(running)
    else:
        server = serve(sandbox, port)
        running = sandbox.start(command)
        _await_moment(sandbox, running, "runner", stage, chance, haste)
        stop(server)
        if how == "goes away and comes back":
            time.sleep(5 * chance.random())
            serve(sandbox, port)
        end(running)
    if how != "goes away and comes back":
        serve(sandbox, port)
    return Injury(command, {stage}, f"server {how}, in {stage}", during=True, shown=running.text)


def serve(sandbox: Sandbox, port: int) -> subprocess.Popen:
    """Start MLflow's server on the project's database, in the project's folder: it ends with the sandbox."""
    command = ["mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    database = sandbox.folder.parent / "server.db"
    server = subprocess.Popen(
        [
            *command,
            "--backend-store-uri",
            f"sqlite:///{database}",
            "--default-artifact-root",
            sandbox.folder.parent / "served",
        ],
        cwd=sandbox.folder,
        # without its job runners for language agents, eight processes more
        env=sandbox.toy.environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return server
        except (URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError("MLflow's server does not start")


def stop(server: subprocess.Popen) -> None:
    """Kill a server with its workers."""
    send_group(server.pid, signal.SIGKILL)
    server.wait()
