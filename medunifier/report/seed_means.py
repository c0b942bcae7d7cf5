"""Means over trainings that differ in nothing but the seed: further models for the paper's tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from medunifier.runtime.params import Params

ReadMetrics = Callable[[str], Mapping[str, float] | None]  # stage -> its flat metrics, None if it did not run
Groups = Mapping[str, tuple[str, ...]]  # name of a mean -> its variants


def seed_groups(params: Params) -> Groups:
    """Return the variants of equal weights, one for each seed of pre-training, where there are at least two seeds."""
    found: dict[tuple[float, ...], dict[int, str]] = {}
    for name, variant in params.variants.items():
        same = found.setdefault(tuple(variant.weights.values()), {})
        same.setdefault(params.training_seed(name), name)
    groups = [tuple(by_seed.values()) for by_seed in found.values() if len(by_seed) > 1]
    return {f"{names[0]} (mean of {len(names)} seeds)": names for names in groups}


def with_means(params: Params, groups: Groups) -> Params:
    """Return `params` in which every mean is one more model, in the evaluations that all its variants are in."""

    def extended(models: tuple[str, ...]) -> tuple[str, ...]:
        return (*models, *(mean for mean, names in groups.items() if set(names) <= set(models)))

    return params.replace(
        variants={**params.variants, **{mean: params.variants[names[0]] for mean, names in groups.items()}},
        trained=params.trained.replace(**{key: extended(models) for key, models in params.trained}),
        evaluate=params.evaluate.replace(finetune_models=extended(params.evaluate.finetune_models)),
    )


def reading_means(read: ReadMetrics, groups: Groups) -> ReadMetrics:
    """Return `read` extended by the stages of a mean, named such as `retrieve@full (mean of 3 seeds)-phantom`."""

    def read_any(stage: str) -> Mapping[str, float] | None:
        for mean, names in groups.items():
            if f"@{mean}" in stage:
                return mean_metrics([read(stage.replace(mean, name)) or {} for name in names])
        return read(stage)

    return read_any


def mean_metrics(trainings: list[Mapping[str, float]]) -> dict[str, float]:
    """Return the means over trainings, with their standard deviation (`_seed_sd`) and number (`_seeds`).

    There is no interval: those of single trainings say how far other patients could move a value, and their mean
    would be no interval of the mean.
    """
    found: dict[str, float] = {}
    for name in trainings[0]:
        if name.endswith(("_ci_low", "_ci_high", "_seed_sd")) or not all(name in one for one in trainings):
            continue
        values = [one[name] for one in trainings]
        found[name] = statistics.fmean(values)
        found[f"{name}_seed_sd"] = statistics.stdev(values)
        found[f"{name}_seeds"] = len(values)
    return found
