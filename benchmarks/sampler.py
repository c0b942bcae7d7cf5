"""Sampling of codes at the paper's sizes, ours and the plain way: `python -m benchmarks.sampler [--save]`.

The plain way, as in the authors' code, runs the network over all rows so far for each position. It is timed at a
position of the first, the middle and the last row and interpolated: all positions of a row cost it the same, and each
row costs about as much more than the one before.
Ours (medunifier/synthesis/sampler.py) samples whole images. Both take the same priors (presets `paper` and `lean`: PixelSNAIL of 256
channels, no text, random weights), in float32, on the same cores; their logits are equal (tests/unit/synthesis/test_sampler.py).
Asked: at least 20 x faster for a batch of 32, 8 x for a batch of 4. Each time is the median of 5 repetitions, in which
the two take turns. `--save` writes benchmarks/results/sampler-DATE.json. The exit code is 1 if one is missed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import records
from medunifier.runtime.yaml import read_mapping
from medunifier.synthesis.pixelsnail import Prior
from medunifier.synthesis.prior_config import GRIDS, PriorConfig
from medunifier.synthesis.sampler import Sampler

REPO = Path(__file__).resolve().parents[1]
ASKED = {4: 8.0, 32: 20.0}  # times faster, by the size of the batch
REPETITIONS = 5


def paper_prior(level: str) -> Prior:
    """Return a prior of the presets `paper` and `lean`, random weights, in evaluation mode."""
    preset = read_mapping(REPO / "workflow/presets/paper.yaml")
    known = PriorConfig().to_dict()
    sizes = {name: value for name, value in preset["prior"][level].items() if name in known}
    codes = preset["model"]["codebook_size"]
    config = PriorConfig(level=level, codebook_size=codes, top_blocks=preset["prior"]["top_blocks"], **sizes)
    return Prior(config).eval()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plain_seconds(prior: Prior, batch: int) -> float:
    """Estimate the time to sample a level by running the network over all rows so far for each position."""
    grid = GRIDS[prior.config.level]
    codes = torch.randint(prior.config.codebook_size, (batch, grid**2))
    top = torch.randint(prior.config.codebook_size, (batch, 64)) if prior.config.level == "bottom" else None
    timed = [1, grid // 2, grid]  # rows
    spent = [seconds(lambda n=rows * grid: prior(codes[:, :n], top)) for rows in timed]
    return float(grid * np.interp(np.arange(1, grid + 1), timed, spent).sum())


def measure() -> dict[str, float]:
    """Measure medians in seconds, and the speed-up of ours."""
    torch.manual_seed(0)
    priors = [paper_prior(level) for level in ("top", "bottom")]
    sampler, found = Sampler(*priors), {}
    with torch.inference_mode():
        for batch in ASKED:
            ours, plain = [], []
            sampler.sample(seeds=range(4))  # memory that is taken once
            for repetition in tqdm(range(REPETITIONS), desc=f"batch of {batch}", unit="repetition"):
                ours.append(seconds(lambda n=batch, r=repetition: sampler.sample(seeds=range(r, r + n))))
                plain.append(sum(plain_seconds(prior, batch) for prior in priors))
            found |= {
                f"ours_s_batch_{batch}": statistics.median(ours),
                f"plain_s_batch_{batch}": statistics.median(plain),
                f"times_faster_batch_{batch}": statistics.median(plain) / statistics.median(ours),
            }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/sampler-DATE.json")
    arguments = parser.parse_args()
    found = measure()
    for name, value in found.items():
        print(f"{name:<24} {value:8.2f}")
    if arguments.save:
        about = {"threads": torch.get_num_threads(), "repetitions": REPETITIONS}
        values = {name: round(value, 3) for name, value in found.items()}
        records.save("sampler", "python -m benchmarks.sampler --save", about | values)
    missed = [n for n, times in ASKED.items() if found[f"times_faster_batch_{n}"] < times]
    for n in missed:
        print(f"batch of {n}: asked {ASKED[n]:g} x")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
