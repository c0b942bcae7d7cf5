"""A copy of a finished project to break: its commands, its processes, its stages and the content of its outputs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from ruamel.yaml import YAML

from medunifier.runtime.dvc_pipeline import Pipeline, overlap
from tests.support.terminal import start_in_terminal
from tests.support.toy_pipeline import Started, Toy

RESULTS = ("data", "models", "results")
# Not compared between two executions, because they say when, where and for how long a stage ran, and under which id.
RECORDS = re.compile(r"results/(runs/.*|summarize_run)\.json")
PAGE = "results/report/index.html"
# The section of the page that shows what these records say.
COSTS = re.compile(rb'<h2 id="costs">.*?(?=<h2 )', re.DOTALL)


class Command:
    """A command of the user in a process group of its own, as a terminal would start it."""

    def __init__(self, toy: Toy, command: str) -> None:
        self.words = command
        if command.startswith("dvc"):
            # Not forked as snakemake is: the project tells a living DVC by its command line.
            self.output = Path(tempfile.mkdtemp(dir=toy.folder.parent)) / "output.txt"
            self.process = start_in_terminal(command, toy.folder, toy.environment, self.output)
        else:
            self.process: subprocess.Popen | Started = toy.start(command)
        self.pid = self.process.process.pid if isinstance(self.process, Started) else self.process.pid

    def wait(self, seconds: float) -> int | None:
        """Return the exit code; None if it still runs after so long."""
        if isinstance(self.process, Started):
            self.process.process.join(seconds)
            return self.process.process.exitcode
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    @property
    def runs(self) -> bool:
        return self.wait(0) is None

    @property
    def text(self) -> str:
        if isinstance(self.process, Started):
            return self.process.text
        return self.output.read_text(encoding="utf-8", errors="replace")


class Sandbox:
    """One project folder, to be used in a `with`: whatever works in it ends with the block.

    Attributes:
        toy: runs commands in it, as in other tests; also where it is the project's own pipeline.
        durations: how long each stage took in the undisturbed run, its start and DVC's work included, in seconds.
    """

    def __init__(self, folder: Path, variables: dict[str, str], durations: dict[str, float]) -> None:
        self.toy = Toy(folder)
        self.toy.environment |= variables
        self.toy.environment.pop("MLFLOW_TRACKING_URI", None)
        self.folder, self.durations = folder, durations
        self.pipeline = Pipeline(folder)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            process.kill()
        psutil.wait_procs(self.processes(), timeout=20)
        for path in self.folder.parent.iterdir():
            remove(path)

    def start(self, command: str) -> Command:
        return Command(self.toy, command)

    def processes(self) -> list[psutil.Process]:
        """Return every process that works in this folder: nothing else on the machine is ever touched."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.folder):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def find(self, role: str, stage: str) -> list[psutil.Process]:
        """Return the processes of one role: a stage (the first of its processes), its runner, or the uploader."""
        found = []
        for process in self.processes():
            try:
                words = process.cmdline()
                of_stage = process.environ().get("DVC_STAGE") == stage
            except psutil.Error:
                continue
            wanted = {
                "stage": of_stage and "python" in "".join(words[:1]),
                "runner": "workflow.run" in words and stage in words,
                "uploader": "medunifier.tracking" in words,
            }
            if wanted[role]:
                found.append(process)
        return sorted(found, key=lambda process: process.create_time())[:1]

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every file of the results by its path, and of the page without COSTS."""
        found = {}
        for folder in RESULTS:
            for path in sorted((self.folder / folder).rglob("*")):
                if path.is_file():
                    name, content = path.relative_to(self.folder).as_posix(), path.read_bytes()
                    found[name] = hashlib.sha256(content).hexdigest()
                    if name == PAGE:
                        found[f"{PAGE} without costs"] = hashlib.sha256(COSTS.sub(b"", content)).hexdigest()
        return found

    def differences(self, expected: dict[str, str]) -> list[str]:
        """Return the files of the results that are not as in the undisturbed run.

        A stage that was executed again has another record; dvc.lock must have its MD5. Then the page's costs, too, are
        others than those of the undisturbed run.
        """
        found = self.hashes()
        differing = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
        locked = {
            out["path"]: out["md5"] for entry in self.locked().values() for out in entry.get("outs", ())
        }
        renewed = {
            name
            for name in differing & found.keys()
            if RECORDS.fullmatch(name) and md5(self.folder / name) == locked.get(name)
        }
        return sorted(differing - renewed - ({PAGE} if renewed else set()))

    def makers(self, path: str) -> set[str]:
        """Return the stages to whose outputs a path belongs."""
        return {
            name
            for name, stage in self.pipeline.stages.items()
            if any(overlap(path, output) for output in stage.outputs)
        }

    def readers(self, path: str) -> list[str]:
        """Return the stages that read a path."""
        stages = self.pipeline.stages.items()
        return [name for name, stage in stages if any(overlap(path, read) for read in stage.inputs)]

    def outputs(self, kind: str) -> list[str]:
        """Return the outputs of one kind (see `kind_of`) that are there."""
        every = [path for stage in self.pipeline.stages.values() for path in stage.outputs]
        return sorted(path for path in every if kind_of(path) == kind and (self.folder / path).exists())

    def locked(self) -> dict[str, dict]:
        """Return the entries of dvc.lock by stage; nothing if it cannot be read."""
        try:
            return YAML(typ="safe").load(self.toy.read("dvc.lock"))["stages"]
        except Exception:  # cut short or damaged, which is what this harness does to it
            return {}

    def finished(self) -> dict[str, str]:
        """Return an id of the execution of each stage whose results are there, as dvc.lock has them.

        The id is the MD5 of its record, which holds a new id for each execution; for the toy, that of all outputs.
        """
        found = {}
        for name, entry in self.locked().items():
            outputs = {out["path"]: out["md5"] for out in entry.get("outs", ())}
            if not outputs or not all((self.folder / path).exists() for path in outputs):
                continue
            records = {path: md5 for path, md5 in outputs.items() if RECORDS.fullmatch(path)}
            if all(md5(self.folder / path) == expected for path, expected in records.items()):
                found[name] = json.dumps(records or self.toy_executions(name))
        return found

    def toy_executions(self, stage: str) -> int:
        """Return how often the toy's stage has run."""
        return self.toy.read("ran.txt").split().count(stage)

    def forget(self, stage: str) -> None:
        """Make a stage one that has not run yet: no outputs, nothing in dvc.lock or the run cache."""
        for output in self.pipeline.stages[stage].outputs:
            remove(self.folder / output)
        yaml = YAML()
        content = yaml.load(self.toy.read("dvc.lock"))
        entry = content["stages"].pop(stage)
        with (self.folder / "dvc.lock").open("w", encoding="utf-8") as file:
            yaml.dump(content, file)
        for path in (self.folder / ".dvc/cache/runs").glob("*/*/*"):
            if (
                path.is_file()
                and YAML(typ="safe").load(path.read_text(encoding="utf-8"))["cmd"] == entry["cmd"]
            ):
                remove(path.parent)

    def wait_until(self, running: Command, condition: Callable[[], object], seconds: float) -> bool:
        """Wait until `condition()` holds; False if the command has ended before."""
        end = time.monotonic() + seconds
        while running.runs and time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.1)
        return False

    def kill_all(self) -> None:
        """Kill -9 everything that works here, a parent before what it has started."""
        for process in sorted(self.processes(), key=lambda process: process.pid):
            send(process, signal.SIGKILL)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def kind_of(output: str) -> str:
    """Return the kind of an output: its path's first two parts, the name of a variant or stage left out."""
    kind = "/".join(Path(output).parts[:2])
    is_variant = kind.startswith("models/") and kind not in ("models/tokenizer", "models/priors")
    return "models/VARIANT" if is_variant else kind


def output_kinds(pipeline: Pipeline) -> list[str]:
    """Return the kinds of outputs in a pipeline."""
    return sorted({kind_of(path) for stage in pipeline.stages.values() for path in stage.outputs})


def files_below(path: Path) -> Iterator[Path]:
    """Yield the files of an output that hold something, in order."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file() and file.stat().st_size:
            yield file


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def send(process: psutil.Process, number: int) -> None:
    """Send a signal to a process that may have ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def send_group(pid: int, number: int) -> None:
    """Send a signal to a process group, as Ctrl-C in a terminal does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
