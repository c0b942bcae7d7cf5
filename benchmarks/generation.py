"""Report generation with and without the key/value cache: `python -m benchmarks.generation [--save]`.

Without the cache all tokens so far are computed again for each new one; the queries' keys and values are kept either
way. Both generate reports of 95 tokens at the paper's sizes, greedily, for the same random images with the same random weights (preset `lean`,
float32); the texts have to be equal. Asked: at least 4 x faster for a batch of 16. A single report, reported
beside it, gains less on a CPU: reading the weights is then most of a step. Each time is the median of 5 repetitions, in
which the two take turns. `--save` writes benchmarks/results/generation-DATE.json. The exit code is 1 if it is missed.
"""

import argparse
import statistics
import sys
import time

import torch
from tqdm import tqdm

from benchmarks import records
from benchmarks.training_step import config
from medunifier.huggingface.modeling_medunifier import MedUnifierModel

TOKENS, IMAGES, ASKED, REPETITIONS = 95, (1, 16), 4.0, 5


def endless(model: MedUnifierModel) -> MedUnifierModel:
    """Keep the model from ending a report, so that each has TOKENS tokens."""
    with torch.no_grad():
        model.text_head.bias[model.config.sep_token_id] = -1e4
    return model.eval()


def measure() -> dict[str, float]:
    """Measure medians in seconds for each number of IMAGES, and the speed-up by the cache."""
    torch.manual_seed(0)
    model, found = endless(MedUnifierModel(config("lean"))), {}
    for images in IMAGES:
        features = torch.randn(images, model.config.vision_tokens, model.config.vision_width)
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in tqdm(range(REPETITIONS), desc=f"batch of {images}", unit="repetition"):
            texts = {}
            for cache, seconds in times.items():
                start = time.perf_counter()
                texts[cache] = model.generate(features, max_new_tokens=TOKENS, use_cache=cache)
                seconds.append(time.perf_counter() - start)
            if texts[True].shape[1] != TOKENS or not torch.equal(texts[True], texts[False]):
                sys.exit(f"{texts[True].shape[1]} tokens, or the two texts differ")
        cached, plain = (statistics.median(times[cache]) for cache in (True, False))
        found |= {f"cached_s_{images}": cached, f"plain_s_{images}": plain}
        found[f"times_faster_{images}"] = plain / cached
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/generation-DATE.json")
    arguments = parser.parse_args()
    found = measure()
    for name, value in found.items():
        print(f"{name:<16} {value:8.2f}")
    if arguments.save:
        about = {"threads": torch.get_num_threads(), "pictures": IMAGES, "tokens": TOKENS}
        values = {name: round(value, 3) for name, value in found.items()}
        command = "python -m benchmarks.generation --save"
        records.save("generation", command, about | {"repetitions": REPETITIONS} | values)
    missed = found[f"times_faster_{IMAGES[-1]}"] < ASKED
    print(f"asked: {ASKED:g} x" if missed else "as asked")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
