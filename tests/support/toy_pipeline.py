"""A pipeline in miniature with the real Snakefile and workflow/.

Every kind of stage that dvc.yaml has, as scripts that take no time. Each script notes its name in ran.txt, so that tests
can count true runs.
"""

import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.paths import REPO

TOOLS = Path(sys.executable).parent

PARAMS = """\
seed: 0
make: {size: 3}
datasets:
  a: {root: raw}
  b-b: {root: raw}
train: {steps: 2, dataset: a}
variants:
  full: {weight: 1}
  small: {weight: 0}
score: {ks: [1, 5]}
evaluate: [b-b]
"""

DVC_YAML = """\
stages:
  make:
    desc: Make the raw data
    cmd: python stage.py make
    deps: [make.txt]
    params: [seed, make]
    outs: [data/raw]
  split:
    foreach: ${datasets}
    do:
      desc: Split the data
      cmd: python stage.py split ${key}
      deps: ["data/${item.root}", split.txt]
      params: ["datasets.${key}"]
      outs:
        - data/split/${key}
  train:
    desc: Train
    matrix: {variant: "${variants}"}
    cmd: python stage.py train ${item.variant}
    deps: ["data/split/${train.dataset}", train.txt]
    params: [seed, train, "variants.${item.variant}"]
    outs:
      - models/${item.variant}
    metrics:
      - results/metrics/train@${item.variant}.json
  score:
    desc: Score
    matrix: {variant: "${variants}", dataset: "${evaluate}"}
    cmd: python stage.py score ${item.variant} ${item.dataset}
    deps: ["models/${item.variant}", "data/split/${item.dataset}", score.txt]
    params: [score]
    metrics:
      - results/metrics/score@${item.variant}-${item.dataset}.json
  summarize:
    desc: Gather it all
    cmd: python stage.py summarize
    deps: [results/metrics, summarize.txt]
    outs: [results/report]
"""

# Outputs hold a digest of the inputs, except that `split` depends on its code only by its first line: a
# change after that leaves the output as it was, as a comment in a real stage would.
STAGE_PY = """\
import hashlib, json, os, pathlib, sys, time

import ruamel.yaml

name, *items = sys.argv[1:]
stage = os.environ["DVC_STAGE"]
with open("ran.txt", "a") as file:
    file.write(stage + "\\n")
hook = pathlib.Path("hook.py")
if hook.exists():
    exec(hook.read_text())


def digest(*paths):
    parts = []
    for path in map(pathlib.Path, paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                parts.append(file.read_bytes())
    return hashlib.md5(b"".join(parts)).hexdigest()


params = ruamel.yaml.YAML(typ="safe").load(open("params.yaml"))
first_line = open(name + ".txt").readline()
if name == "make":
    out, text = "data/raw/file.txt", f"{params['seed']} {params['make']} {first_line}"
elif name == "split":
    out, text = f"data/split/{items[0]}/file.txt", digest("data/raw") + items[0] + first_line
elif name == "train":
    out = f"models/{items[0]}/file.txt"
    text = digest("data/split/" + params["train"]["dataset"]) + str(params["train"]) + str(params["variants"][items[0]])
elif name == "score":
    out, text = None, digest("models/" + items[0], "data/split/" + items[1]) + str(params["score"])
else:
    out, text = "results/report/index.html", digest("results/metrics")
if out:
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(out).write_text(text)
if name in ("train", "score"):
    path = pathlib.Path(f"results/metrics/{stage}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"value": int(hashlib.md5(text.encode()).hexdigest()[:6], 16)}))
"""

TOY_PARAMS_PY = """\
from pathlib import Path

from medunifier.runtime.errors import InputError


def load_params(path="params.yaml"):
    if "steps: -" in Path(path).read_text():
        raise InputError("params.yaml: train.steps: -1 is refused; allowed: integer, at least 1")
"""

TOY_TRACKING_PY = """\
def begin_run():
    with open("tracking.txt", "a") as file:
        file.write("begin\\n")


def adopt(names):
    with open("tracking.txt", "a") as file:
        file.write("adopt " + " ".join(names) + "\\n")
"""

RUNTIME = (
    "cpu",
    "errors",
    "dvc_pipeline",
    "files",
    "file_locks",
    "integrity",
    "own_encoder",
    "yaml",
)  # for planning

RESOURCES = """\
default: {cpus: 1, mem_mb: 100, runtime: 5, gpus: 0, nodes: 1, local: false}
train: {cpus: 2, gpus: 1}
"""


class Toy:
    """A folder with the toy pipeline, and the commands of a user in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PATH": f"{TOOLS}:{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(folder / ".dvc" / "tmp" / "site-cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def build(self, dvc_yaml: str = DVC_YAML, resources: str = RESOURCES) -> "Toy":
        """The files of the pipeline, with nothing run yet."""
        shutil.copytree(
            REPO / "workflow",
            self.folder / "workflow",
            ignore=shutil.ignore_patterns("__pycache__", "site.yaml"),
        )
        for name in ("Snakefile", "environment.yml", ".gitignore", ".dvcignore"):
            shutil.copy(REPO / name, self.folder / name)
        for name in ("slurm", "local", "profiles"):
            (self.folder / name).symlink_to(os.readlink(REPO / name))
        (self.folder / "medunifier/runtime").mkdir(parents=True)
        for name in ("__init__.py", "runtime/__init__.py", *(f"runtime/{name}.py" for name in RUNTIME)):
            shutil.copy(REPO / "medunifier" / name, self.folder / "medunifier" / name)
        texts = {
            "medunifier/runtime/params.py": TOY_PARAMS_PY,
            "medunifier/tracking.py": TOY_TRACKING_PY,
            "workflow/resources.yaml": resources,
            "params.yaml": PARAMS,
            "dvc.yaml": dvc_yaml,
            "stage.py": STAGE_PY,
            **{f"{name}.txt": f"{name}\n" for name in ("make", "split", "train", "score", "summarize")},
        }
        for path, text in texts.items():
            self.write(path, text)
        self.shell("git init -q")
        (
            self.folder / ".dvc"
        ).mkdir()  # by `dvc init` a daemon would look for updates in this folder meanwhile
        shutil.copy(REPO / ".dvc" / "config", self.folder / ".dvc" / "config")
        return self

    def copy_to(self, folder: Path) -> "Toy":
        """The same in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        return Toy(folder)

    def write(self, path: str, text: str) -> None:
        (self.folder / path).write_text(text, encoding="utf-8")

    def read(self, path: str) -> str:
        file = self.folder / path
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def edit(self, path: str, old: str, new: str) -> None:
        text = self.read(path)
        assert old in text
        self.write(path, text.replace(old, new))

    def shell(self, command: str) -> str:
        """A shell command that must succeed; returns what it prints."""
        done = subprocess.run(
            command,
            check=False,
            shell=True,
            cwd=self.folder,
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, command: str) -> "Started":
        """A `snakemake` or `dvc` command, started; see `Started`."""
        return Started(self, command)

    def call(self, command: str, code: int = 0) -> str:
        """The same, awaited; returns what it prints. It must end with `code`."""
        return self.start(command).wait(code)

    def planned(self, command: str = "snakemake -n --cores 2") -> list[str]:
        """Names of the stages that a dry run lists."""
        return sorted(re.findall(r"^\s*Job \d+: (\S+): ", self.call(command), re.MULTILINE))

    def unclean(self) -> list[str]:
        """Names of the stages that `dvc status` finds changed."""
        return sorted(json.loads(self.call("dvc status --json")))

    def ran(self) -> list[str]:
        """Names of the stages whose commands have run since the last call, in order."""
        names = self.read("ran.txt").split()
        (self.folder / "ran.txt").unlink(missing_ok=True)
        return names

    def locked(self) -> list[str]:
        """Names of the stages in dvc.lock, in its order."""
        return re.findall(r"^  (\S+):$", self.read("dvc.lock"), re.MULTILINE)


class Started:
    """A running `snakemake` or `dvc`, as if typed into a shell, in a process group of its own.

    It is forked from a server process that has imported both, which saves each call some four seconds.
    """

    def __init__(self, toy: Toy, command: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["snakemake.cli", "snakemake.workflow", "dvc.cli", "dvc.repo", "psutil"]
        )
        self.command = command
        self.output = Path(tempfile.mkdtemp(dir=toy.folder.parent)) / "output.txt"
        self.process = context.Process(
            target=_enter, args=(command.split(), str(toy.folder), toy.environment, str(self.output))
        )
        self.process.start()

    def wait(self, code: int = 0) -> str:
        self.process.join(600)
        assert self.process.exitcode == code, f"{self.command}: {self.process.exitcode}\n{self.text}"
        return self.text

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8") if self.output.exists() else ""

    def kill(self, everything: bool) -> None:
        """Kill -9, of the main process alone or of everything that it started, too."""
        (os.killpg if everything else os.kill)(self.process.pid, signal.SIGKILL)
        self.process.join(20)


def _enter(command: list[str], folder: str, environment: dict[str, str], output: str) -> None:
    os.setpgid(0, 0)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # as in a terminal, also where pytest runs in the background
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = [str(TOOLS / command[0]), *command[1:]]
    sys.path = [str(TOOLS), *(path for path in sys.path if Path(path or ".").resolve() != REPO)]
    main = importlib.import_module(f"{command[0]}.cli").main
    sys.exit(main(command[1:]))


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
