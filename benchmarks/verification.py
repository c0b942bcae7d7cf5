"""What checking its inputs adds to a stage: `python -m benchmarks.verification FOLDER [--save]`.

Run it in the folder of a finished demo (`make demo`). It measures
* at the demo's size, what all stages together spend on checking what they read, in the first run and in one that finds
  everything known, beside the time of the stages themselves as Snakemake measured it (.state/benchmarks);
* in FOLDER, where it writes and removes 2 GB, the rate at which new files are read (the system's cache warm), on one
  core and on all, and what a known output of that size takes;
* from the rate, what 100 GB of features add to a training: that of preset `lean` on one H200 (25 000 steps of 128 at
  371.5 images a second, benchmarks/results/cuda_step-2026-11-28.json), asked: at most 3 %.
`--save` writes benchmarks/results/verification-DATE.json. The exit code is 1 if more than 3 % are added.
"""

import argparse
import csv
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import records
from medunifier.runtime.dvc_pipeline import Pipeline
from medunifier.runtime.integrity import damages, verify_inputs

FILES, FILE_BYTES = 8, 256 * 2**20
HUNDRED_GB = 100e9  # bytes
TRAINING_S = 25_000 * 128 / 371.5
MOST_PERCENT = 3.0
ROUNDS = 3
TRAINED = "pretrain@full"


def seconds_of_stages() -> dict[str, float]:
    """Return the wall time of each stage in the run that this folder holds."""
    found = {}
    for path in Path(".state/benchmarks").glob("*.tsv"):
        with path.open(encoding="utf-8") as file:
            (line,) = csv.DictReader(file, delimiter="\t")
        found[path.stem] = float(line["s"])
    return found


def checks(pipeline: Pipeline, stages: list[str]) -> dict[str, float]:
    """Check what each stage reads, in the order of the pipeline; return the seconds of each."""
    found = {}
    for stage in stages:
        started = time.perf_counter()
        verify_inputs(pipeline, stage)
        found[stage] = time.perf_counter() - started
    return found


def at_the_demos_size() -> dict[str, float]:
    """Measure the project of this folder, whose own records of files that were seen stay as they are."""
    pipeline, ran = Pipeline(), seconds_of_stages()
    stages = [stage for stage in pipeline.stages if stage in ran]
    with tempfile.TemporaryDirectory() as state:
        os.environ["MEDUNIFIER_STATE"] = state
        first, known = checks(pipeline, stages), checks(pipeline, stages)
        del os.environ["MEDUNIFIER_STATE"]
    total = sum(ran[stage] for stage in stages)
    return {
        "demo_stages": len(stages),
        "demo_stages_s": total,
        "demo_checks_first_s": sum(first.values()),
        "demo_checks_known_s": sum(known.values()),
        "demo_checks_first_percent": 100 * sum(first.values()) / total,
        "demo_training_first_percent": 100 * first[TRAINED] / ran[TRAINED],
    }


def write_files(folder: Path) -> tuple[str, dict[str, str]]:
    """Write random files; return DVC's hash of the folder and the MD5 of each file."""
    rng, listing = np.random.default_rng(0), {}
    for number in range(FILES):
        content = rng.bytes(FILE_BYTES)
        (folder / f"{number}.npy").write_bytes(content)
        listing[f"{number}.npy"] = hashlib.md5(content).hexdigest()
    listed = [{"md5": md5, "relpath": name} for name, md5 in sorted(listing.items())]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir", listing


def seconds_of_check(path: Path, expected: str, listing: dict[str, str] | None, sample: str | None) -> float:
    """Return the seconds that the check of a whole file or folder takes."""
    started = time.perf_counter()
    assert not list(damages(path, expected, sample=sample, listing=listing))
    return time.perf_counter() - started


def at_large(folder: Path) -> dict[str, float]:
    """Measure rates, and scale them to 100 GB."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as files,
        tempfile.TemporaryDirectory() as state,
    ):
        os.environ["MEDUNIFIER_STATE"] = state
        path = Path(files)
        expected, listing = write_files(path)
        one = path / "0.npy"
        alone = median(seconds_of_check(one, listing[one.name], None, None) for _ in range(ROUNDS))
        whole = median(seconds_of_check(path, expected, listing, None) for _ in range(ROUNDS))
        seconds_of_check(path, expected, listing, "first")
        known = seconds_of_check(path, expected, listing, "second")
        del os.environ["MEDUNIFIER_STATE"]
    rate, rate_of_all = FILE_BYTES / alone, FILES * FILE_BYTES / whole
    return {
        "gb_per_s_one_core": rate / 1e9,
        "gb_per_s_all_cores": rate_of_all / 1e9,
        "known_s": known,
        "hundred_gb_one_core_s": HUNDRED_GB / rate,
        "hundred_gb_all_cores_s": HUNDRED_GB / rate_of_all,
        "training_s": TRAINING_S,
        "hundred_gb_one_core_percent": 100 * HUNDRED_GB / rate / TRAINING_S,
        "hundred_gb_all_cores_percent": 100 * HUNDRED_GB / rate_of_all / TRAINING_S,
    }


def main() -> int:
    """Measure, print, and return 1 if verification adds too much."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.verification",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where 2 GB may be written for a minute")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/verification-DATE.json")
    arguments = parser.parse_args()
    if not any(Path(".state/benchmarks").glob("*.tsv")):
        sys.exit("run this in the folder of a finished demo (make demo)")
    values = at_the_demos_size() | at_large(arguments.folder)
    for name, value in values.items():
        print(f"{name:<32} {value:10.2f}")
    if arguments.save:
        about = {"cores": os.cpu_count(), **values}
        print(
            records.save("verification", "python -m benchmarks.verification FOLDER --save", about, ("dvc",))
        )
    limits = ("demo_training_first_percent", "hundred_gb_all_cores_percent")
    return int(any(values[name] > MOST_PERCENT for name in limits))


if __name__ == "__main__":
    sys.exit(main())
