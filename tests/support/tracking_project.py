"""A small project to track: three stages in a folder of its own, around the real parameters."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from medunifier.tracking import Run, costs
from tests.support.paths import REPO

PARAMETERS = {
    "seed": "0",
    "pretrain.learning_rate": "1.0e-3",
    "vision.skip_last_blocks": "0",
    "simulate.image_size": "320",
}
DVC_YAML = """
stages:
  first:
    desc: Make a file
    cmd: python first.py
    deps: [first.py]
    params: [seed, vision.skip_last_blocks]
    outs: [out/first.txt, results/runs/first.json]
    metrics: [results/metrics/first.json]
  second:
    desc: Use the file
    matrix: {variant: "${variants}"}
    cmd: python second.py ${item.variant}
    deps: [second.py, out/first.txt]
    params: [pretrain.learning_rate, "variants.${item.variant}"]
    outs:
      - out/second-${item.variant}.txt
      - results/runs/second@${item.variant}.json
    metrics:
      - results/metrics/second@${item.variant}.json
  third:
    desc: Gather metrics
    cmd: python third.py
    deps: [third.py, results/metrics]
    outs: [results/runs/third.json]
"""

STAGE = '''
from pathlib import Path
from medunifier.stage import run_stage

def {name}(params, run{signature}):
    """Does the {name} thing."""
    {body}

if __name__ == "__main__":
    run_stage({name}, arguments={arguments})
'''


def write_project(folder: Path) -> Path:
    """Parameters, dvc.yaml and the inputs of its stages."""
    (folder / "out").mkdir(parents=True)
    (folder / "params.yaml").write_text((REPO / "workflow/presets/demo.yaml").read_text())
    for key, value in PARAMETERS.items():
        set_parameter(folder, key, value)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    write_stage(folder, "first", 'Path("out/first.txt").write_text("x")')
    write_stage(folder, "second", 'Path("out/second-full.txt").write_text("x")', ("variant",))
    write_stage(folder, "third", 'run.metrics({"pages": 1})')
    (folder / "out/first.txt").write_text("x")
    return folder


def write_stage(folder: Path, name: str, body: str, arguments: tuple[str, ...] = ()) -> None:
    """A stage file; `body` is the code of its function."""
    signature = "".join(f", {argument}" for argument in arguments)
    text = STAGE.format(
        name=name, body=body.replace("\n", "\n    "), signature=signature, arguments=arguments
    )
    (folder / f"{name}.py").write_text(text)


def set_parameter(folder: Path, key: str, value: str) -> None:
    """Edits params.yaml; `key` is a top-level name, or SECTION.NAME with NAME once in that section."""
    text = (folder / "params.yaml").read_text()
    section, _, name = key.rpartition(".")
    start = re.search(rf"(?m)^{section}:", text).start() if section else 0
    end = re.compile(r"(?m)^\w").search(text, start + 1).start() if section else len(text)
    indent = "[ ]+" if section else ""
    part, times = re.subn(rf"(?m)^({indent}{name}:[ ]+)\S+", rf"\g<1>{value}", text[start:end])
    assert times == 1, key
    (folder / "params.yaml").write_text(text[:start] + part + text[end:])


def execute(name: str, metrics=(), curve=()) -> str:
    """One execution of a stage in this process and the working directory; returns its execution id."""
    costs.STARTED = time.monotonic()  # as if in a process of its own
    with Run.open(name) as run:
        for step, values in curve:
            run.curve(step, values)
        run.metrics(dict(metrics))
        run.finish()
    return json.loads(Path(f"results/runs/{name}.json").read_text())["execution_id"]


def start(folder: Path, *command: str, **environment: str) -> subprocess.Popen:
    """Starts `python COMMAND` in the project."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def python(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs `python COMMAND` in the project to its end."""
    process = start(folder, *command, **environment)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
