"""python -m workflow.headline: the headline metrics of a run, beside chance, baselines and targets.

Reads results/metrics/*.json for the present parameters. What has not been measured is said, not hidden.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medunifier.runtime.errors import refuse
from medunifier.runtime.json_files import read_numbers
from medunifier.runtime.params import Params, load_params

LOSSES = {"itc": "contrastive", "itm": "matching", "itg": "report generation", "tig": "image generation"}
FALLS_TO = 0.9  # a validation loss has fallen well if it is at most this part of its start
TIMES_CHANCE = 2.5  # image-to-text mAP@1
# prompt fidelity; its confidence interval must also lie above that of images generated without a text
TIMES_CHANCE_PROMPTED = 2.0
DECIBELS = 6.0  # of the reconstructions over the mean image
# Matching loss of the best constant answer: one pair in three matches (two negatives for each image).
CONSTANT_ANSWER = math.log(3) - 2 / 3 * math.log(2)
USED_CODES = 0.1  # perplexity, as a part of the codebook


@dataclass(frozen=True)
class Line:
    """One metric beside its reference; NaN where it was not measured."""

    what: str
    value: float
    against: str  # name of the reference
    reference: float
    good: bool

    def __str__(self) -> str:
        if math.isnan(self.value) or math.isnan(self.reference):
            return f"  {self.what:<34} not measured"
        verdict = "reached" if self.good else "NOT reached"
        return f"  {self.what:<34} {self.value:>9.4g}   {self.against:<28} {self.reference:>9.4g}   {verdict}"


def headline(params: Params, folder: Path = Path("results/metrics")) -> dict[str, list[Line]]:
    """Return for each variant the metrics that show whether it learned.

    Args:
        params: parameters of the pipeline.
        folder: the metrics of the stages.

    Raises:
        InputError: a metrics file is no JSON.
    """
    lines = {}
    for name, variant in params.variants.items():
        data, codes = params.pretrain.dataset, params.model.codebook_size
        training = _read(folder / f"pretrain@{name}.json")
        losses = [loss for loss, weight in variant.weights.items() if weight > 0]
        lines[name] = [line for loss in losses for line in _fallen(training, loss)]
        if name in params.trained.itc and data in params.evaluate.retrieve:
            lines[name].append(_retrieval(_read(folder / f"retrieve@{name}-{data}.json")))
        if name in params.trained.itg and data in params.evaluate.write_reports:
            lines[name].append(_reports(_read(folder / f"write_reports@{name}-{data}.json")))
        if name in params.trained.tig:
            scores = _read(folder / f"score_images@{name}.json")
            lines[name].append(_images(scores))
            if "prompt_fidelity" in scores:  # the priors take a text
                lines[name].append(_fidelity(scores))
        if variant.tig > 0:
            lines[name] += _codes(training, codes)
    return lines


def _fallen(metrics: Mapping[str, float], loss: str) -> Iterator[Line]:
    first, last = _get(metrics, f"val_{loss}_first"), _get(metrics, f"val_{loss}_last")
    what = f"validation loss, {LOSSES[loss]}"
    yield Line(what, last, "at the start", first, last <= FALLS_TO * first)
    if loss == "itm":  # random weights start far above what needs no learning
        yield Line(what, last, "always the same answer", CONSTANT_ANSWER, last < CONSTANT_ANSWER)


def _retrieval(metrics: Mapping[str, float]) -> Line:
    value, chance = _get(metrics, "i2t_map_at_1"), _get(metrics, "i2t_map_at_1_chance")
    good = value >= TIMES_CHANCE * chance
    return Line("image to report, mAP@1 (%)", value, f"chance (target: {TIMES_CHANCE:g} times)", chance, good)


def _reports(metrics: Mapping[str, float]) -> Line:
    value, constant = _get(metrics, "bleu_4"), _get(metrics, "constant_bleu_4")
    return Line("generated reports, BLEU-4", value, "constant baseline", constant, value > constant)


def _images(metrics: Mapping[str, float]) -> Line:
    value, mean = _get(metrics, "psnr_reconstruction"), _get(metrics, "psnr_mean_image")
    against = f"mean image (target: +{DECIBELS:g})"
    return Line("reconstructed images, PSNR (dB)", value, against, mean, value >= mean + DECIBELS)


def _fidelity(metrics: Mapping[str, float]) -> Line:
    value, chance = _get(metrics, "prompt_fidelity"), _get(metrics, "prompt_fidelity_chance")
    without, low = (
        _get(metrics, "prompt_fidelity_unconditional_ci_high"),
        _get(metrics, "prompt_fidelity_ci_low"),
    )
    good = value >= TIMES_CHANCE_PROMPTED * chance and low > without
    against = f"chance (target: {TIMES_CHANCE_PROMPTED:g} times)"
    return Line("prompt fidelity (%)", value, against, chance, good)


def _codes(metrics: Mapping[str, float], size: int) -> Iterator[Line]:
    for level in ("top", "bottom"):
        value = _get(metrics, f"perplexity_{level}")
        target = USED_CODES * size
        yield Line(
            f"codes in use, {level} (perplexity)", value, f"target, of {size} codes", target, value >= target
        )


def _get(metrics: Mapping[str, float], name: str) -> float:
    return float(metrics.get(name, math.nan))


def _read(path: Path) -> Mapping[str, float]:
    if not path.exists():
        return {}
    return read_numbers(path, "run the pipeline again")


def main() -> None:
    """Print the headline metrics of every variant."""
    try:
        params = load_params()
        found = headline(params)
    except Exception as error:
        sys.exit(refuse("headline", error))
    for variant, lines in found.items():
        seed = params.training_seed(variant)
        print(f"\n{params.preset}, variant {variant}, seed {seed}: held-out {params.pretrain.dataset}")
        print("\n".join(map(str, lines)))
    print("\nThe whole report: results/report/index.html. Runs and curves: make ui")
    print("To keep these results: git add dvc.lock && git commit (DVC's cache holds the files that it names)")


if __name__ == "__main__":
    main()
