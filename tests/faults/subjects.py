"""The pipelines that are broken: the project's own with small parameters, and the toy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.sandbox import Sandbox
from tests.support.checkout import make_checkout
from tests.support.paths import REPO
from tests.support.small_pipeline import PROMPTS, SMALLEST, shrink_parameters
from tests.support.toy_pipeline import Toy

# One thread: results do not depend on the machine's load, and soaks beside each other do not wait for threads.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MEDUNIFIER_STORE_SECONDS": "10"}
COMMIT = "git -c user.name=soak -c user.email=soak@localhost commit -qm 'undisturbed run'"
MLFLOW = ("uploader", "journal", "MLflow's database", ".state/tracking", "mlartifacts")
CHECKS = (".state/checkpoints", ".state/verified")
TOY_HOOK = "import time; time.sleep(0.5)\n"  # so that there is a moment to hit


@dataclass(frozen=True)
class Subject:
    """A pipeline.

    Attributes:
        build: makes its folder, with nothing run.
        trained: a stage that leaves checkpoints; "": none.
        without: kinds and targets of faults that it does not have.
    """

    build: Callable[[Path], Toy]
    trained: str = ""
    without: tuple[str, ...] = ()


def _build_small(folder: Path) -> Toy:
    toy = make_checkout(folder)
    shutil.copy(REPO / "workflow/presets/demo.yaml", folder / "params.yaml")
    shrink_parameters(folder / "params.yaml", SMALLEST)
    toy.write("prompts.txt", PROMPTS)
    return toy


def _build_toy(folder: Path) -> Toy:
    toy = Toy(folder).build()
    toy.write("hook.py", TOY_HOOK)
    return toy


SMALL = Subject(_build_small, trained="pretrain@full")
TOY = Subject(
    _build_toy,
    # no MLflow, no training, and no check of what a stage reads
    without=("server", "flip, time kept", *MLFLOW, "checkpoint", "verified", "costs", *CHECKS),
)


class Templates:
    """The project as it is before its first run, after an undisturbed one, and interrupted in a training.

    All work happens in `arena/project`, since a project records its own path: in MLflow's store and in DVC's locks.

    Attributes:
        hashes: of the outputs of the undisturbed run.
        durations: of its stages, in seconds.
    """

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self.folder = subject, folder
        self.arena = folder / "arena"
        self.hashes: dict[str, str] = {}
        self.durations: dict[str, float] = {}

    def make(self) -> None:
        """Run the pipeline undisturbed, and once more up to the middle of its training."""
        (self.arena / "project").mkdir(parents=True, exist_ok=True)
        self.subject.build(self.arena / "project").shell(f"git add -A && {COMMIT}")
        self._keep("fresh")
        with self.copy("fresh", tracking=True) as sandbox:
            running = sandbox.start("snakemake --cores 1")
            assert running.wait(3600) == 0, running.text
            psutil.wait_procs(sandbox.processes(), timeout=60)  # the uploader
            sandbox.toy.shell(f"git add -f dvc.lock && {COMMIT}")
            self.hashes = sandbox.hashes()
            for table in sandbox.folder.glob(".state/benchmarks/*.tsv"):
                self.durations[table.stem] = float(table.read_text().splitlines()[1].split("\t")[0])
            self._keep("finished")
        if not self.subject.trained:
            return
        with self.copy("finished", tracking=True) as sandbox:
            sandbox.forget(self.subject.trained)
            running = sandbox.start("snakemake --cores 1")
            checkpoints = f".state/checkpoints/{self.subject.trained}/*/*.pt"
            seen = sandbox.wait_until(running, lambda: any(sandbox.folder.glob(checkpoints)), 900)
            sandbox.kill_all()
            assert seen, f"no checkpoint was seen\n{running.text}"
            self._keep("interrupted")

    def copy(self, state: str, *, tracking: bool) -> Sandbox:
        """Return a copy of `fresh`, `finished` or `interrupted` to break."""
        shutil.copytree(self.folder / state, self.arena / "project", symlinks=True)
        variables = {} if tracking else {"MEDUNIFIER_UPLOADER": "off"}
        return Sandbox(self.arena / "project", ENVIRONMENT | variables, self.durations)

    def _keep(self, state: str) -> None:
        shutil.copytree(self.arena / "project", self.folder / state, symlinks=True)
        if state == "fresh":
            shutil.rmtree(self.arena / "project")
