"""Models compared in pairs on the same items: the difference of a metric with a paired bootstrap interval."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.metrics.bootstrap import BootstrapOptions, Interval, bootstrap_counts
from medunifier.metrics.classification import auroc
from medunifier.metrics.classification_scores import mean_of_defined
from medunifier.metrics.clinical_scorers import CORPUS, SCORER_OF, scale_of
from medunifier.metrics.meteor import meteor
from medunifier.metrics.text import ORDERS, bleu
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import atomic_path
from medunifier.runtime.params import Params

RESAMPLES = 1000
# Metrics of a whole corpus, from sums [..., S] of the items' statistics.
OF_SUMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "meteor": meteor,
    **{f"bleu_{n}": lambda sums, n=n: bleu(sums)[..., n - 1] for n in range(1, ORDERS + 1)},
    **CORPUS,
}


@dataclass(frozen=True)
class Difference:
    """A metric of `model` minus that of `reference`, in the units of the metrics files; columns of differences.csv."""

    evaluation: str  # family and data set, and the part of the training data
    metric: str
    model: str
    reference: str
    difference: float
    ci_low: float
    ci_high: float
    n: int

    @property
    def lower_is_better(self) -> bool:
        """Whether the better model has the lower value."""
        return self.metric in SCORER_OF and SCORER_OF[self.metric].lower_is_better


def differences(params: Params, read: Callable[[str], pl.DataFrame]) -> list[Difference]:
    """Compare every model with `full` (or the first variant) in each evaluation that both ran.

    Args:
        params: parameters of the pipeline.
        read: stage -> its item scores (`medunifier.results.item_scores`).
    """
    found = []
    for evaluation, stages in evaluations(params):
        if len(stages) < 2:
            continue
        reference = "full" if "full" in stages else next(iter(stages))
        base = read(stages[reference])
        for model, stage in stages.items():
            if model != reference:
                other = read(stage)
                found += [
                    Difference(evaluation, metric, model, reference, *values)
                    for metric, values in compare(other, base, stage, params.seed)
                ]
    return found


def evaluations(params: Params) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (evaluation, model -> stage) of all evaluations that keep item scores."""
    evaluate, trained = params.evaluate, params.trained
    for family, models in (
        ("retrieve", trained.itc),
        ("zero_shot", trained.itc),
        ("write_reports", trained.itg),
    ):
        for dataset in getattr(evaluate, family):
            yield f"{family} {dataset}", {model: f"{family}@{model}-{dataset}" for model in models}
    for dataset in evaluate.finetune:
        for percent in evaluate.finetune_percents:
            stages = {model: f"finetune@{model}-{dataset}-{percent}" for model in evaluate.finetune_models}
            yield f"finetune {dataset} {percent}%", stages


def compare(
    model: pl.DataFrame, reference: pl.DataFrame, stage: str, seed: int
) -> Iterator[tuple[str, tuple[float, float, float, int]]]:
    """Yield (metric, (difference, low, high, items)) of the metrics that both have, in the units of the metrics files.

    Both systems get the same resamples of patients.

    Raises:
        InputError: they were not evaluated on the same items.
    """
    keys = ["metric", "seed", "item_id"]
    joined = model.join(reference, on=keys, how="inner", suffix="_reference", maintain_order="left")
    shared = set(reference["metric"])
    for metric in model["metric"].unique(maintain_order=True):
        if metric not in shared:  # `itm_accuracy` against a variant without a matching head
            continue
        rows = joined.filter(metric=metric)
        sizes = {len(frame.filter(metric=metric)) for frame in (model, reference)}
        if sizes != {len(rows)}:
            raise InputError(
                f"{stage}: {metric} was not measured on the reference's items; run both evaluations again"
            )
        seeds = [part for (_,), part in rows.group_by("seed", maintain_order=True)]
        patients = seeds[0]["patient_id"].to_list()

        def score(counts: np.ndarray, seeds: Sequence[pl.DataFrame] = seeds) -> np.ndarray:
            """Counts [..., n] -> difference [..., 1], the mean over seeds."""
            return np.mean([_difference(part, counts) for part in seeds], axis=0)[..., None]

        options = BootstrapOptions(RESAMPLES, seed, clusters=patients)
        (interval,) = bootstrap_counts(score, len(patients), options)
        scale = scale_of(metric)
        yield metric, (scale * interval.value, scale * interval.low, scale * interval.high, interval.n)
    for prefix in ("", "probe_", "itm_"):
        rows = joined.filter(pl.col("metric").str.starts_with(f"{prefix}auroc_"))
        if len(rows):
            interval = _mean_over_labels(rows, seed)
            values = (100 * interval.value, 100 * interval.low, 100 * interval.high, interval.n)
            yield f"{prefix}macro_auroc", values


def _mean_over_labels(rows: pl.DataFrame, seed: int) -> Interval:
    """Return the difference of the mean AUROC of labels, each known for some of the items, and its interval."""
    items = rows.select("item_id", "patient_id").unique(maintain_order=True).with_row_index("place")
    placed = rows.join(items, on=["item_id", "patient_id"], maintain_order="left")
    seeds = [
        [part for (_,), part in of_seed.group_by("metric", maintain_order=True)]
        for (_,), of_seed in placed.group_by("seed", maintain_order=True)
    ]

    def score(counts: np.ndarray) -> np.ndarray:
        """Counts [..., n] -> difference [..., 1]: the mean over seeds of the mean over labels."""
        found = [
            mean_of_defined(
                np.stack([_difference(part, counts[..., part["place"].to_numpy()]) for part in labels])
            )
            for labels in seeds
        ]
        return np.mean(found, axis=0)[..., None]

    options = BootstrapOptions(RESAMPLES, seed, clusters=items["patient_id"].to_list())
    (interval,) = bootstrap_counts(score, len(items), options)
    return interval


def _difference(rows: pl.DataFrame, counts: np.ndarray) -> np.ndarray:
    return score_items(rows, counts) - score_items(rows, counts, of="_reference")


def score_items(rows: pl.DataFrame, counts: np.ndarray, *, of: str = "") -> np.ndarray:
    """Compute one metric of a model from its item scores under one seed.

    Args:
        rows: item scores (`medunifier.results.item_scores.ITEMS`), n.
        counts: how often each item was drawn, [..., n].
        of: what follows the names of the columns of scores.

    Returns:
        float64 [...], not yet in percent.
    """
    values = rows[f"value{of}"].to_numpy()
    if rows["positive"].null_count() == 0:
        return auroc(values, rows["positive"].to_numpy().astype(bool), counts)
    if rows["statistics"].null_count() == 0:
        return OF_SUMS[rows["metric"][0]](counts @ np.array(rows[f"statistics{of}"].to_list()))
    return counts @ values / counts.sum(-1)


def write_differences(found: Sequence[Difference], path: Path) -> None:
    """Write differences.csv: a line for each comparison, values rounded to 4 decimals."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Difference))
        for line in found:
            writer.writerow(round(v, 4) if isinstance(v, float) else v for v in asdict(line).values())
