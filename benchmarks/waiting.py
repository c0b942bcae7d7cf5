"""How threads wait between two operations: `python -m benchmarks.waiting [--save]`.

Seconds and processor seconds of a training step of the demo (8 reports of 55 tokens, two threads) where threads sleep at
once, where they spin for as long as the stages have it (`medunifier.stage.LIBRARY_DEFAULTS`), and where they spin as long
as OpenMP's default is; on an idle machine, and beside a program that keeps one core busy. Each case is a process of its own,
since OpenMP reads its settings once. `--save` writes benchmarks/results/waiting-DATE.json. Run it on an idle machine of two
cores. The exit code is 1 if the stages' choice is not the fastest of the three on the idle machine, up to a tenth.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from tqdm import tqdm

from benchmarks import records
from benchmarks.training_step import batch, config
from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from medunifier.runtime.params import load_params
from medunifier.stage import LIBRARY_DEFAULTS
from medunifier.training.optimizer import build_optimizer
from medunifier.training.recipe import Recipe

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
CASES = {
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
    "stages": {name: LIBRARY_DEFAULTS[name] for name in NAMES},
    "default": {},
}
THREADS, IMAGES, TOKENS, STEPS = 2, 8, 55, 9


def measure_here() -> tuple[float, float]:
    """Return seconds and processor seconds of a training step in this process, medians."""
    params = load_params("workflow/presets/demo.yaml")
    torch.manual_seed(0)
    sizes = config("demo")
    # EfficientNet-Lite0's levels 16 and 32 of images of 160 pixels, and a vocabulary as small as the demo's
    sizes.vision_width, sizes.vision_tokens, sizes.vision_grid, sizes.vocab_size = 432, 101, (10, 10), 400
    sizes.pad_token_id, sizes.cls_token_id, sizes.sep_token_id, sizes.decode_token_id = range(4)
    model = MedUnifierModel(sizes).train()
    recipe = Recipe.from_params(params.pretrain, seed=0)
    optimizer = build_optimizer(model, recipe)
    pairs = batch(model.config, (TOKENS,) * IMAGES)
    pairs["input_ids"] %= sizes.vocab_size
    spent = []
    for _ in range(STEPS):
        start, busy = time.perf_counter(), time.process_time()
        model(**pairs, weights=params.variants["full"].weights).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        spent.append((time.perf_counter() - start, time.process_time() - busy))
    wall, processor = zip(*spent[3:], strict=True)
    return statistics.median(wall), statistics.median(processor)


def measure(case: str) -> dict[str, float]:
    """Measure a case in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment |= {"OMP_NUM_THREADS": str(THREADS), **CASES[case]}
    command = [sys.executable, "-m", "benchmarks.waiting", "--here"]
    answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(zip(("seconds", "processor_seconds"), json.loads(answer), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/waiting-DATE.json")
    parser.add_argument(
        "--here", action="store_true", help="measure with the settings of this process; prints JSON"
    )
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure_here()))
        return 0
    found: dict[str, dict[str, dict[str, float]]] = {}
    for machine in ("idle", "one core busy"):
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if machine != "idle" else None
        try:
            found[machine] = {case: measure(case) for case in tqdm(CASES, desc=machine, unit="case")}
        finally:
            if other is not None:
                other.kill()
                other.wait()
    for machine, cases in found.items():
        for case, values in cases.items():
            print(
                f"{machine:<14} {case:<8} {values['seconds']:.3f} s, {values['processor_seconds']:.3f} core-seconds"
            )
    if arguments.save:
        about = {"threads": THREADS, "images": IMAGES, "tokens": TOKENS, "settings": CASES, "step": found}
        records.save("waiting", "python -m benchmarks.waiting --save", about)
    fastest = min(values["seconds"] for values in found["idle"].values())
    return 0 if found["idle"]["stages"]["seconds"] < 1.1 * fastest else 1


if __name__ == "__main__":
    sys.exit(main())
