"""Classification metrics with bootstrap confidence intervals, averaged over seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medunifier.metrics import classification as c
from medunifier.metrics.bootstrap import BootstrapOptions, Interval, bootstrap_counts

Metrics = dict[str, Callable[[np.ndarray], np.ndarray]]  # name -> (counts [..., n] -> values [...])


@dataclass(frozen=True)
class ClassificationScores:
    """Metrics of the same n test items under each seed.

    Attributes:
        names: Names of the metrics.
        seeds: The metrics under each seed, as functions of how often each item was drawn.
        chance: Chance level of some metrics, by name.
        thresholds: Decision thresholds (probabilities), means over seeds.
        n: Number of items.
        sizes: Number of items of the metrics that are computed on a part of them, such as sensitivity.
    """

    names: tuple[str, ...]
    seeds: tuple[Metrics, ...]
    chance: dict[str, float]
    thresholds: dict[str, float]
    n: int
    sizes: dict[str, int]

    def without(self, name: str) -> "ClassificationScores":
        """Return the scores without one metric."""
        return replace(self, names=tuple(other for other in self.names if other != name))

    def intervals(self, options: BootstrapOptions) -> dict[str, Interval]:
        """Compute the means over seeds with their 95 % confidence intervals, by name.

        All are percentile intervals but that of `ece`, which is mirrored (`Interval.mirrored`).
        """
        found = dict(zip(self.names, bootstrap_counts(self.score, self.n, options), strict=True))
        if "ece" in found:
            found["ece"] = found["ece"].mirrored()
        return {name: replace(interval, n=self.sizes.get(name, self.n)) for name, interval in found.items()}

    def score(self, counts: np.ndarray) -> np.ndarray:
        """Return the means over seeds, [..., names], for counts [..., n]; see `bootstrap_counts`."""
        return np.mean([[seed[name](counts) for name in self.names] for seed in self.seeds], axis=0).T

    def spread(self) -> dict[str, float]:
        """Return the standard deviation of each metric between seeds; nothing for a single seed."""
        if len(self.seeds) == 1:
            return {}
        once = np.ones(self.n)
        return {name: float(np.std([seed[name](once) for seed in self.seeds], ddof=1)) for name in self.names}

    def flat(self, options: BootstrapOptions, prefix: str = "") -> dict[str, float | int]:
        """Return flat metrics in percent: values with intervals, `_chance`, `_seed_sd`; and the thresholds."""
        metrics: dict[str, float | int] = {}
        for name, interval in self.intervals(options).items():
            metrics |= interval.flat(prefix + name, scale=100)
        metrics |= {f"{prefix}{name}_chance": 100 * value for name, value in self.chance.items()}
        metrics |= {f"{prefix}{name}_seed_sd": 100 * value for name, value in self.spread().items()}
        return metrics | {f"{prefix}{name}": value for name, value in self.thresholds.items()}


def score_binary(
    test: Sequence[np.ndarray],
    target: np.ndarray,
    validate: Sequence[np.ndarray],
    validate_target: np.ndarray,
) -> ClassificationScores:
    """Score a binary task.

    AUROC, average precision (`auprc`), F1, sensitivity and specificity at the threshold that is best on validation,
    calibration error (`ece`).

    Args:
        test: Probabilities [n, 2] of each seed.
        target: 0 or 1, int64 [n].
        validate: As `test`, for validation.
        validate_target: As `target`, for validation.
    """
    cuts = [c.best_threshold(scores[:, 1], validate_target == 1) for scores in validate]
    seeds = tuple(_binary(scores[:, 1], target == 1, cut) for scores, cut in zip(test, cuts, strict=True))
    chance = {"auroc": 0.5, "auprc": float((target == 1).mean())}
    positives = int((target == 1).sum())
    sizes = {"sensitivity": positives, "specificity": len(target) - positives}
    thresholds = {"threshold": float(np.mean(cuts))}
    return ClassificationScores(tuple(seeds[0]), seeds, chance, thresholds, len(target), sizes)


def score_exclusive(
    test: Sequence[np.ndarray], target: np.ndarray, classes: Sequence[str]
) -> ClassificationScores:
    """Score a task of classes that exclude each other, where the most probable class is the answer.

    Accuracy; macro means of AUROC, average precision and F1; calibration error (`ece`); sensitivity and specificity
    of each class. The chance level of accuracy is that of naming the largest class.

    Args:
        test: Probabilities [n, C] of each seed.
        target: Class numbers, int64 [n].
        classes: Names of the C classes.
    """
    seeds = tuple(_exclusive(scores, target, classes) for scores in test)
    held = np.bincount(target, minlength=len(classes))
    share = held / len(target)
    chance = {"accuracy": float(share.max()), "macro_auroc": 0.5, "macro_auprc": float(share.mean())}
    sizes = {f"sensitivity_{name}": int(n) for name, n in zip(classes, held, strict=True)}
    sizes |= {f"specificity_{name}": len(target) - int(n) for name, n in zip(classes, held, strict=True)}
    return ClassificationScores(tuple(seeds[0]), seeds, chance, {}, len(target), sizes)


def _binary(scores: np.ndarray, positive: np.ndarray, cut: float) -> Metrics:
    called = scores >= cut
    return {
        "auroc": lambda counts: c.auroc(scores, positive, counts),
        "auprc": lambda counts: c.average_precision(scores, positive, counts),
        "f1": lambda counts: c.f1(called, positive, counts),
        "sensitivity": lambda counts: c.sensitivity(called, positive, counts),
        "specificity": lambda counts: c.specificity(called, positive, counts),
        "ece": lambda counts: c.calibration_error(scores, positive, counts),
    }


def _exclusive(scores: np.ndarray, target: np.ndarray, classes: Sequence[str]) -> Metrics:
    called = scores.argmax(1)
    right = called == target
    numbers = range(len(classes))

    def macro(metric: Callable[..., np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda counts: np.mean([metric(scores[:, i], target == i, counts) for i in numbers], axis=0)

    metrics: Metrics = {
        "accuracy": lambda counts: counts @ right.astype(np.float64) / counts.sum(-1),
        "macro_auroc": macro(c.auroc),
        "macro_auprc": macro(c.average_precision),
        "macro_f1": lambda counts: np.mean([c.f1(called == i, target == i, counts) for i in numbers], axis=0),
        "ece": lambda counts: c.calibration_error(scores.max(1), right, counts),
    }
    for i, name in enumerate(classes):
        for kind, metric in (("sensitivity", c.sensitivity), ("specificity", c.specificity)):
            metrics[f"{kind}_{name}"] = lambda counts, i=i, metric=metric: metric(
                called == i, target == i, counts
            )
    return metrics
