"""What orchestration costs: `python -m benchmarks.orchestration [--save]`.

Ten stages that do nothing, in a temporary folder with the repository's own Snakefile and workflow/:
* `snakemake -n` and `dvc status` with nothing changed (asked: under 10 s together);
* CPU seconds that `snakemake` adds to a stage, all processes counted (asked: under 6 s), beside the reference:
  what one `dvc repro` adds for the same stages.
`--save` writes the figures to benchmarks/results/, dated. The exit code is 1 if a limit is broken.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results"
STAGES = 10
LIMITS = {"nothing_to_do_wall_s": 10.0, "snakemake_cpu_s_per_stage": 6.0}

DVC_YAML = """\
stages:
  nothing:
    desc: Do nothing
    matrix: {number: "${numbers}"}
    cmd: echo ${item.number} > out/${item.number}.txt
    deps: [stages/errors.py]
    params: [seed]
    outs:
      - out/${item.number}.txt
"""
RESOURCES = "default: {cpus: 1, mem_mb: 100, runtime: 5, gpus: 0, nodes: 1, local: false}\n"
NO_PARAMS = "def load_params(path='params.yaml'):\n    return None\n"
NO_TRACKING = "def prepare_store():\n    pass\n\n\ndef adopt(names):\n    pass\n"


def build(folder: Path) -> None:
    """The pipeline of stages that do nothing."""
    shutil.copytree(REPO / "workflow", folder / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "stages").mkdir()
    for name in (
        "Snakefile",
        "environment.yml",
        "stages/errors.py",
        "stages/pipeline.py",
        "stages/__init__.py",
    ):
        shutil.copy(REPO / name, folder / name)
    (folder / "profiles").symlink_to("workflow/profiles")
    texts = {
        "dvc.yaml": DVC_YAML,
        "workflow/resources.yaml": RESOURCES,
        "stages/params.py": NO_PARAMS,
        "stages/tracking.py": NO_TRACKING,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "out").mkdir()
    change(folder, seed=0)
    measure(folder, "git init -q")
    measure(folder, "dvc init -q")
    shutil.copy(REPO / ".dvc" / "config", folder / ".dvc" / "config")


def change(folder: Path, seed: int) -> None:
    """New parameters, so that every stage has to run."""
    text = f"seed: {seed}\nnumbers: {list(range(STAGES))}\n"
    (folder / "params.yaml").write_text(text, encoding="utf-8")


def measure(folder: Path, command: str) -> dict[str, float]:
    """Wall and CPU seconds of a command and of everything that it starts; it must succeed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(command.split(), cwd=folder, env=environment, check=True, capture_output=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu}


def figures() -> dict[str, float]:
    """Every measurement, in seconds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pipeline"
        folder.mkdir()
        build(folder)
        ran = measure(folder, "snakemake --cores 2")
        idle, status = measure(folder, "snakemake -n --cores 2"), measure(folder, "dvc status")
        change(folder, seed=1)
        reference = measure(folder, "dvc repro")
        reference_idle = measure(folder, "dvc repro")
        change(folder, seed=0)
        restored = measure(folder, "snakemake --cores 2")
    return {
        "nothing_to_do_wall_s": idle["wall"] + status["wall"],
        "nothing_to_do_cpu_s": idle["cpu"] + status["cpu"],
        "snakemake_cpu_s_per_stage": (ran["cpu"] - idle["cpu"]) / STAGES,
        "snakemake_wall_s_per_stage": (ran["wall"] - idle["wall"]) / STAGES,
        "snakemake_cpu_s_per_restored_stage": (restored["cpu"] - idle["cpu"]) / STAGES,
        "dvc_repro_cpu_s_per_stage": (reference["cpu"] - reference_idle["cpu"]) / STAGES,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/orchestration-DATE.json"
    )
    arguments = parser.parse_args()

    load = os.getloadavg()[0]
    measured = figures()
    for name, value in measured.items():
        limit = f"   asked: under {LIMITS[name]:g}" if name in LIMITS else ""
        print(f"{name:<36} {value:6.2f}{limit}")
    if arguments.save:
        record = {
            "command": "python -m benchmarks.orchestration --save",
            "date": datetime.date.today().isoformat(),
            "cores": os.cpu_count(),
            "load_before": round(load, 1),
            "python": platform.python_version(),
            **{package: version(package) for package in ("snakemake", "dvc")},
            "stages": STAGES,
            **{name: round(value, 2) for name, value in measured.items()},
        }
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"orchestration-{record['date']}.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"written: {path.relative_to(REPO)}")
    broken = [name for name, limit in LIMITS.items() if measured[name] >= limit]
    print(f"over the limit: {', '.join(broken)}" if broken else "within the limits")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
