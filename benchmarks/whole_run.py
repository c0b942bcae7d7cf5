"""Time of a whole run, and all its metrics: `python -m benchmarks.whole_run FOLDER [--save] -- COMMAND...`.

COMMAND, such as `make demo`, is run in the project folder FOLDER. Reported are its wall time, the processor time of all its
processes (user and system), processor and wall time of each stage family, and the metrics of all stages.
`--save` writes benchmarks/results/run-PRESET-DATE.json. A run that leaves a stage out because its results are there tells less
than its time: start from a fresh clone.

    python -m benchmarks.whole_run ../clone --save -- make demo
"""

import argparse
import json
import resource
import subprocess
import time
from pathlib import Path

import torch

from benchmarks import records
from medunifier.runtime.cpu import available_cores
from medunifier.runtime.params import load_params


def stage_seconds(folder: Path) -> dict[str, list[float]]:
    """Return stage family -> processor time and wall time of all its stages, by what each recorded of itself."""
    seconds: dict[str, list[float]] = {}
    for path in sorted((folder / ".state/costs").glob("*.json")):
        costs = json.loads(path.read_text(encoding="utf-8"))["costs"]
        total = seconds.setdefault(path.stem.partition("@")[0], [0.0, 0.0])
        total[0] += costs["cpu_seconds"]
        total[1] += costs["wall_seconds"]
    return {family: [round(x, 1) for x in total] for family, total in seconds.items()}


def measure(folder: Path, command: list[str]) -> dict:
    """Run a command in a folder and return what it took and left.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, cwd=folder, check=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    params = load_params(folder / "params.yaml")
    return {
        "run": " ".join(command),
        "preset": params.preset,
        "seed": params.seed,
        "wall_s": round(wall, 1),
        "user_s": round(after.ru_utime - before.ru_utime, 1),
        "system_s": round(after.ru_stime - before.ru_stime, 1),
        "cores": available_cores(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "stages_s": stage_seconds(folder),
        "metrics": {
            path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted((folder / "results/metrics").glob("*.json"))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="project folder in which the command runs")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/run-PRESET-DATE.json")
    parser.add_argument("command", nargs="+", help="after --: what to run, such as make demo")
    arguments = parser.parse_args()
    found = measure(arguments.folder, arguments.command)
    print(json.dumps({name: value for name, value in found.items() if name != "metrics"}, indent=1))
    if arguments.save:
        command = f"python -m benchmarks.whole_run FOLDER --save -- {found['run']}"
        print(records.save(f"run-{found['preset']}", command, found))


if __name__ == "__main__":
    main()
