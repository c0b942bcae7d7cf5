"""A pipeline in miniature with the real Snakefile and workflow/: every kind of stage that dvc.yaml has, as
scripts that take no time. Each script notes its name in ran.txt, so that tests can count true runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
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
    matrix: {variant: "${variants}", dataset: "${datasets}"}
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
STAGE_PY = '''\
import hashlib, json, os, pathlib, sys, time

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


params = json.loads(json.dumps(__import__("ruamel.yaml").yaml.YAML(typ="safe").load(open("params.yaml"))))
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
'''

TOY_PARAMS_PY = '''\
from pathlib import Path

from stages.errors import InputError


def load_params(path="params.yaml"):
    if "steps: -" in Path(path).read_text():
        raise InputError("params.yaml: train.steps: -1 is refused; allowed: integer, at least 1")
'''

TOY_TRACKING_PY = '''\
def prepare_store():
    with open("tracking.txt", "a") as file:
        file.write("prepare\\n")


def adopt(names):
    with open("tracking.txt", "a") as file:
        file.write("adopt " + " ".join(names) + "\\n")
'''

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
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc-site-cache"),
            "XDG_CACHE_HOME": str(folder.parent / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def build(self) -> "Toy":
        shutil.copytree(REPO / "workflow", self.folder / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Snakefile", "environment.yml", ".gitignore", ".dvcignore"):
            shutil.copy(REPO / name, self.folder / name)
        for name in ("slurm", "local", "profiles"):
            (self.folder / name).symlink_to(os.readlink(REPO / name))
        stages = self.folder / "stages"
        stages.mkdir()
        shutil.copy(REPO / "stages" / "errors.py", stages)
        for path, text in {
            "stages/__init__.py": "",
            "stages/params.py": TOY_PARAMS_PY,
            "stages/tracking.py": TOY_TRACKING_PY,
            "workflow/resources.yaml": RESOURCES,
            "params.yaml": PARAMS,
            "dvc.yaml": DVC_YAML,
            "stage.py": STAGE_PY,
            **{f"{name}.txt": f"{name}\n" for name in ("make", "split", "train", "score", "summarize")},
        }.items():
            (self.folder / path).write_text(text)
        self.run("git", "init", "-q")
        self.run("dvc", "init", "-q")
        shutil.copy(REPO / ".dvc" / "config", self.folder / ".dvc" / "config")
        return self

    def run(self, *command: str, check: bool = True, **options) -> subprocess.CompletedProcess:
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment, text=True, capture_output=True, timeout=120, **options
        )
        if check and result.returncode:
            raise AssertionError(f"{' '.join(command)}: exit code {result.returncode}\n{result.stdout}{result.stderr}")
        return result
