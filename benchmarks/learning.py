"""Check that finished runs learnt what is asked of them: `python -m benchmarks.learning FOLDER... [--save]`.

Each FOLDER is the project folder of a finished run of one preset; they usually differ in `seed`. Reported and, with
`--save`, written to benchmarks/results/learning-PRESET-DATE.json are the values of `python -m workflow.headline`, each with
its baseline or limit (null: not measured), and their confidence intervals. The exit code is 1 if one is not as asked.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from benchmarks import records
from medunifier.runtime.params import load_params
from workflow.headline import headline

INTERVALS = {
    "retrieve": ("i2t_map_at_1", "t2i_map_at_1"),
    "zero_shot": ("accuracy",),
    "write_reports": (
        "bleu_4",
        "constant_bleu_4",
        "bleu_4_gain",
        "findings_f1_micro",
        "nearest_findings_f1_micro",
    ),
    "score_images": ("psnr_reconstruction", "prompt_fidelity", "prompt_fidelity_unconditional"),
}


def learnt(folder: Path) -> list[dict]:
    """Return what each variant of a run learnt.

    Raises:
        InputError: the folder has no params.yaml, or broken metrics.
    """
    params = load_params(folder / "params.yaml")
    metrics = folder / "results/metrics"
    found = []
    for name, lines in headline(params, metrics).items():
        found.append(
            {
                "preset": params.preset,
                "variant": name,
                "seed": params.training_seed(name),
                "figures": {
                    f"{line.what} | {line.against}": [
                        measured(line.value),
                        measured(line.reference),
                        line.good,
                    ]
                    for line in lines
                },
                "intervals": intervals(metrics, name, params.pretrain.dataset),
            }
        )
    return found


def measured(value: float) -> float | None:
    """Return a value, or None for one that was not measured (NaN, which JSON does not have)."""
    return None if math.isnan(value) else value


def intervals(metrics: Path, variant: str, dataset: str) -> dict[str, list[float]]:
    """Return metric -> value and its 95 % confidence interval, of those that were measured."""
    found = {}
    for stage, names in INTERVALS.items():
        path = metrics / f"{stage}@{variant}{'' if stage == 'score_images' else f'-{dataset}'}.json"
        values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        found |= {
            name: [values[name], values[f"{name}_ci_low"], values[f"{name}_ci_high"]]
            for name in names
            if f"{name}_ci_low" in values
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="project folders of finished runs")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/learning-PRESET-DATE.json"
    )
    arguments = parser.parse_args()
    runs = [run for folder in arguments.folders for run in learnt(folder)]
    print(json.dumps(runs, indent=1))
    if arguments.save:
        (preset,) = {run["preset"] for run in runs}
        records.save(f"learning-{preset}", "python -m benchmarks.learning FOLDER... --save", {"runs": runs})
    missed = [
        f"{run['preset']}, {run['variant']}, seed {run['seed']}: {what} is not as asked"
        for run in runs
        for what, (_, _, good) in run["figures"].items()
        if not good
    ]
    print("\n".join(missed) or "everything asked for is reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
