"""Cost of orchestration: `python -m benchmarks.orchestration [--save]`.

Ten stages that only log one number, in a temporary folder with the repository's own Snakefile, workflow/ and
stages/ (parameters checked by the schema, runs recorded in MLflow):
* `snakemake -n` and `dvc status` with nothing changed (asked: under 10 s together);
* CPU seconds that `snakemake` adds to a stage, all processes counted (asked: under 6 s); of these, what starting the stage
  and recording it takes (the stage called by hand), and beside it what one `dvc repro` adds for the same stages.
`--save` writes benchmarks/results/orchestration-DATE.json. The exit code is 1 if a limit is broken.
"""

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import records

REPO = Path(__file__).resolve().parents[1]
STAGES = 10
LIMITS = {"nothing_to_do_wall_s": 10.0, "snakemake_cpu_s_per_stage": 6.0}

STAGE = """\
from medunifier.stage import run_stage


def nothing(params, run, number):
    run.metrics({"number": int(number)})


if __name__ == "__main__":
    run_stage(nothing, arguments=["number"])
"""
DVC_YAML = f"""\
stages:
  nothing:
    desc: Do nothing
    matrix: {{number: {[str(number) for number in range(STAGES)]}}}
    cmd: python -m stages.nothing ${{item.number}}
    deps: [stages/nothing.py]
    params: [seed]
    outs:
      - results/runs/nothing@${{item.number}}.json
    metrics:
      - results/metrics/nothing@${{item.number}}.json
"""
RESOURCES = "default: {cpus: 1, mem_mb: 100, runtime: 5, gpus: 0, nodes: 1, local: false}\n"


def build(folder: Path) -> None:
    """Write the pipeline of stages that do nothing."""
    for name in ("workflow", "stages"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml", ".gitignore", ".dvcignore"):
        shutil.copy(REPO / name, folder / name)
    (folder / "profiles").symlink_to("workflow/profiles")
    texts = {"dvc.yaml": DVC_YAML, "workflow/resources.yaml": RESOURCES, "stages/nothing.py": STAGE}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    change(folder, seed=0)
    measure(folder, "git init -q")
    measure(folder, "dvc init -q")
    shutil.copy(REPO / ".dvc" / "config", folder / ".dvc" / "config")
    measure(folder, "python -m medunifier.tracking prepare")


def change(folder: Path, seed: int) -> None:
    """Write other parameters, so that every stage has to run."""
    text = (REPO / "workflow/presets/demo.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(re.sub("(?m)^seed: 0", f"seed: {seed}", text), encoding="utf-8")


def measure(folder: Path, command: str) -> dict[str, float]:
    """Measure wall and CPU seconds of a command and everything that it starts; it must succeed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command.split(), cwd=folder, env=environment, check=False, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{command}: {done.stdout}{done.stderr}")
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu}


def all_measurements() -> dict[str, float]:
    """Return every measurement, in seconds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pipeline"
        folder.mkdir()
        build(folder)
        ran = measure(folder, "snakemake --cores 2")
        idle, status = measure(folder, "snakemake -n --cores 2"), measure(folder, "dvc status")
        by_hand = measure(folder, "python -m stages.nothing 0")
        change(folder, seed=1)
        reference = measure(folder, "dvc repro")
        reference_idle = measure(folder, "dvc repro")
        change(folder, seed=0)
        restored = measure(folder, "snakemake --cores 2")
    return {
        "nothing_to_do_wall_s": idle["wall"] + status["wall"],
        "nothing_to_do_cpu_s": idle["cpu"] + status["cpu"],
        "snakemake_cpu_s_per_stage": (ran["cpu"] - idle["cpu"]) / STAGES,
        "stage_by_hand_cpu_s": by_hand["cpu"],
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
    measured = all_measurements()
    for name, value in measured.items():
        limit = f"   asked: under {LIMITS[name]:g}" if name in LIMITS else ""
        print(f"{name:<36} {value:6.2f}{limit}")
    if arguments.save:
        about = {"cores": os.cpu_count(), "load_before": round(load, 1), "stages": STAGES}
        about |= {name: round(value, 2) for name, value in measured.items()}
        command = "python -m benchmarks.orchestration --save"
        path = records.save("orchestration", command, about, ("snakemake", "dvc"))
        print(f"written: {path.relative_to(REPO)}")
    broken = [name for name, limit in LIMITS.items() if measured[name] >= limit]
    print(f"over the limit: {', '.join(broken)}" if broken else "within the limits")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
