"""The soak: `python -m tests.faults --faults 200 --seed 0` (also `make soak FAULTS=200 SEED=0`).

Runs a small pipeline undisturbed, then breaks copies of it, one fault at a time: kills and signals, a full and a
read-only disk, flipped bits, deletions, two starts at once, an MLflow server that goes away. After each fault the same
command must finish, and the outputs must equal those of the undisturbed run.
"""

import argparse
import os
import sys
import tempfile
from itertools import islice
from pathlib import Path

from benchmarks import records
from tests.faults.catalogue import faults
from tests.faults.soak import Soak, Tally
from tests.faults.subjects import SMALL, TOY


def main() -> int:
    """Return 0 if every fault was survived or mended."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--faults", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="decides on all that is random")
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

    with tempfile.TemporaryDirectory(prefix="soak-") as folder, Soak(subject, Path(folder)) as soak:
        print(f"undisturbed and interrupted: {soak.seconds:.0f} s", flush=True)
        wanted = chosen.only or range(chosen.faults)
        planned = islice(faults(chosen.seed, soak.cells), max(wanted) + 1)
        tally = Tally(command)
        for fault in planned:
            if fault.number in wanted:
                print(tally.add(fault, *soak.run(fault)), flush=True)
                if chosen.save:  # now: a soak takes long, and may be stopped
                    about = {"cores": os.cpu_count(), "undisturbed_s": round(soak.seconds), **tally.record()}
                    records.save("faults", command, about, ("snakemake", "dvc", "mlflow", "torch"))
        print(tally.summary(), flush=True)
    return 0 if tally.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
