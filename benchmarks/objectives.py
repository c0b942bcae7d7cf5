"""Cost of an objective of weight 0: `python -m benchmarks.objectives [--save]`.

For each variant of the preset `ablation` one training step (forward, backward), relative to the full one: its
arithmetic (FLOP, counted) and its time (median of 5 repetitions, in which the variants take turns). Beside it the
same with the modules of the objectives that are off removed from the model, so that they cannot run. The difference
is what a switched-off objective costs. Sizes of the preset, reports of 95 tokens, random weights. `--save`
writes benchmarks/results/objectives-DATE.json. The exit code is 1 if a variant does more arithmetic than it would without
these modules, or takes over a tenth longer.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import records
from benchmarks.training_step import batch, config
from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from medunifier.runtime.yaml import read_mapping
from medunifier.training.throughput import flop_counter

REPO = Path(__file__).resolve().parents[1]
MODULES = {  # of each objective alone
    "itc": ("query_projection", "text_projection"),
    "itm": ("match_head",),
    "itg": ("text_head",),
    "tig": ("image_generator",),
}
IMAGES, REPETITIONS = 16, 5


def without(weights: dict[str, float]) -> MedUnifierModel:
    """Return a model without the modules of objectives of weight 0."""
    model = MedUnifierModel(config("ablation")).train()
    for objective, names in MODULES.items():
        if weights[objective] == 0:
            for name in names:
                setattr(model, name, None)
    return model


def step(model: MedUnifierModel, pairs: dict, weights: dict[str, float]) -> None:
    model(**pairs, weights=weights).total.backward()


def measure() -> dict[str, dict[str, float]]:
    """Measure by variant FLOP and seconds relative to `full`, with and without the modules that are off."""
    variants = read_mapping(REPO / "workflow/presets/ablation.yaml")["variants"]
    torch.manual_seed(0)
    models = {"switched": {name: MedUnifierModel(config("ablation")).train() for name in variants}}
    models["taken_out"] = {name: without(weights) for name, weights in variants.items()}
    pairs = batch(models["switched"]["full"].config, (95,) * IMAGES)
    flops = {kind: {} for kind in models}
    times = {kind: {name: [] for name in variants} for kind in models}
    for kind, those in models.items():
        for name, model in those.items():
            with flop_counter() as counter:
                step(model, pairs, variants[name])
            flops[kind][name] = counter.get_total_flops()
    for _ in tqdm(range(REPETITIONS), unit="repetition"):
        for name, weights in variants.items():
            for kind, those in models.items():
                start = time.perf_counter()
                step(those[name], pairs, weights)
                times[kind][name].append(time.perf_counter() - start)
    seconds = {
        kind: {name: statistics.median(values) for name, values in those.items()}
        for kind, those in times.items()
    }
    return {
        name: {
            "flop": flops["switched"][name] / flops["switched"]["full"],
            "flop_taken_out": flops["taken_out"][name] / flops["switched"]["full"],
            "time": seconds["switched"][name] / seconds["switched"]["full"],
            "time_taken_out": seconds["taken_out"][name] / seconds["switched"]["full"],
        }
        for name in variants
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/objectives-DATE.json")
    arguments = parser.parse_args()
    found = measure()
    print(f"{'as parts of full':<14} {'FLOP':>8} {'taken out':>10} {'time':>8} {'taken out':>10}")
    for name, parts in found.items():
        flop, bare_flop, spent, bare = parts.values()
        print(f"{name:<14} {flop:10.3f} {bare_flop:10.3f} {spent:8.3f} {bare:10.3f}")
    if arguments.save:
        parts = {name: {k: round(v, 3) for k, v in row.items()} for name, row in found.items()}
        about = {"threads": torch.get_num_threads(), "repetitions": REPETITIONS, "parts_of_full": parts}
        records.save("objectives", "python -m benchmarks.objectives --save", about)
    dear = [
        n
        for n, p in found.items()
        if p["flop"] > p["flop_taken_out"] or p["time"] > 1.1 * p["time_taken_out"]
    ]
    print("\n".join(f"{name}: what is off costs something" for name in dear) or "what is off costs nothing")
    return 1 if dear else 0


if __name__ == "__main__":
    sys.exit(main())
