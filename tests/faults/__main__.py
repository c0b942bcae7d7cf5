"""The soak: `python -m tests.faults --faults 200 --seed 0` (also `make soak FAULTS=200 SEED=0`).

Runs a small pipeline undisturbed, then breaks copies of it, one fault at a time: kills and signals, a full and a
read-only disk, flipped bits, deletions, two starts at once, an MLflow server that goes away. After each fault the same
command must finish, and the outputs must equal those of the undisturbed run.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import records
from tests.faults.soak import Tally
from tests.faults.subjects import SMALL, TOY
from tests.faults.workers import run_faults


def main() -> int:
    """Return 0 if every fault was survived or fixed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--faults", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="decides on all that is random")
    parser.add_argument("--jobs", type=int, default=1, help="faults at a time, each on a core (default: 1)")
    parser.add_argument(
        "--only", type=int, action="append", help="only the fault of this number; may be repeated"
    )
    parser.add_argument(
        "--toy", action="store_true", help="the toy pipeline of the tests, which takes seconds"
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/faults-DATE.json")
    chosen = parser.parse_args()
    subject = TOY if chosen.toy else SMALL
    command = f"python -m tests.faults --faults {chosen.faults} --seed {chosen.seed}" + (
        " --toy" * chosen.toy
    )

    numbers = chosen.only or range(chosen.faults)
    tally = Tally(command)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        for done in run_faults(subject, Path(folder), chosen.seed, numbers, chosen.jobs):
            print(tally.add(done.fault, done.outcome, done.what, done.seconds), flush=True)
            if chosen.save:  # now: a soak takes long, and may be stopped
                about = {
                    "cores": os.cpu_count(),
                    "jobs": chosen.jobs,
                    "undisturbed_s": round(done.undisturbed_s),
                }
                records.save(
                    "faults", command, about | tally.record(), ("snakemake", "dvc", "mlflow", "torch")
                )
    print(tally.summary(), flush=True)
    return 0 if tally.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
