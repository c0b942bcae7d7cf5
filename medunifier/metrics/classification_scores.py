"""Classification metrics with bootstrap confidence intervals, averaged over seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medunifier.metrics import classification as c
from medunifier.metrics.bootstrap import BootstrapOptions, Interval, bootstrap_counts

Metrics = dict[str, Callable[[np.ndarray], np.ndarray]]  # name -> (counts [..., n] -> values [...])
Scorer = Callable[[np.ndarray], dict[str, np.ndarray]]  # counts [..., n] -> name -> values [...]
MEANS = ("auroc", "auprc", "f1", "ece")  # of labels that do not exclude each other
OF_A_LABEL = ("auroc", "auprc", "f1", "sensitivity", "specificity")


@dataclass(frozen=True)
class ClassificationScores:
    """Metrics of the same n test items under each seed.

    Attributes:
        names: Names of the metrics.
        seeds: The metrics under each seed, as a function of how often each item was drawn.
        chance: Chance level of some metrics, by name.
        thresholds: Decision thresholds (probabilities), means over seeds.
        n: Number of items.
        sizes: Number of items of the metrics that are computed on a part of them, such as sensitivity.
    """

    names: tuple[str, ...]
    seeds: tuple[Scorer, ...]
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
        found = [seed(counts) for seed in self.seeds]
        return np.mean([[values[name] for name in self.names] for values in found], axis=0).T

    def spread(self) -> dict[str, float]:
        """Return the standard deviation of each metric between seeds; nothing for a single seed."""
        if len(self.seeds) == 1:
            return {}
        found = [seed(np.ones(self.n)) for seed in self.seeds]
        return {name: float(np.std([values[name] for values in found], ddof=1)) for name in self.names}

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
    seeds = [_binary(scores[:, 1], target == 1, cut) for scores, cut in zip(test, cuts, strict=True)]
    chance = {"auroc": 0.5, "auprc": float((target == 1).mean())}
    positives = int((target == 1).sum())
    sizes = {"sensitivity": positives, "specificity": len(target) - positives}
    thresholds = {"threshold": float(np.mean(cuts))}
    scorers = tuple(map(_at_once, seeds))
    return ClassificationScores(tuple(seeds[0]), scorers, chance, thresholds, len(target), sizes)


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
    seeds = [_exclusive(scores, target, classes) for scores in test]
    held = np.bincount(target, minlength=len(classes))
    share = held / len(target)
    chance = {"accuracy": float(share.max()), "macro_auroc": 0.5, "macro_auprc": float(share.mean())}
    sizes = {f"sensitivity_{name}": int(n) for name, n in zip(classes, held, strict=True)}
    sizes |= {f"specificity_{name}": len(target) - int(n) for name, n in zip(classes, held, strict=True)}
    return ClassificationScores(tuple(seeds[0]), tuple(map(_at_once, seeds)), chance, {}, len(target), sizes)


def score_labels(
    test: Sequence[np.ndarray],
    target: np.ndarray,
    validate: Sequence[np.ndarray],
    validate_target: np.ndarray,
    labels: Sequence[str],
) -> ClassificationScores:
    """Score labels that do not exclude each other, each as a binary task over the items for which it is known.

    Of each label the metrics of `score_binary`, and its own threshold; means over labels of AUROC, average precision,
    F1 and calibration error. A draw without a positive or negative item of a label has no value for this label, and
    its means are over the other labels.

    Args:
        test: Probabilities [n, L] of each seed.
        target: 1, 0, or -1 where the label is ignored, int64 [n, L].
        validate: As `test`, for validation.
        validate_target: As `target`, for validation.
        labels: Names of the L labels.
    """
    cuts = np.array(
        [
            [
                c.best_threshold(scores[known, i], validate_target[known, i] == 1)
                for i in range(len(labels))
                for known in [validate_target[:, i] >= 0]
            ]
            for scores in validate
        ]
    )
    seeds = tuple(_labels(scores, target, own, labels) for scores, own in zip(test, cuts, strict=True))
    positives, negatives = (target == 1).sum(0), (target == 0).sum(0)
    chance = {"macro_auroc": 0.5, "macro_auprc": float((positives / (positives + negatives)).mean())}
    sizes: dict[str, int] = {}
    for i, label in enumerate(labels):
        known = int(positives[i] + negatives[i])
        chance |= {f"auroc_{label}": 0.5, f"auprc_{label}": float(positives[i] / known)}
        sizes |= {f"{kind}_{label}": known for kind in ("auroc", "auprc", "f1")}
        sizes |= {f"sensitivity_{label}": int(positives[i]), f"specificity_{label}": int(negatives[i])}
    thresholds = {f"threshold_{label}": float(cuts[:, i].mean()) for i, label in enumerate(labels)}
    names = ["ece" if kind == "ece" else f"macro_{kind}" for kind in MEANS]
    names += [f"{kind}_{label}" for kind in OF_A_LABEL for label in labels]
    return ClassificationScores(tuple(names), seeds, chance, thresholds, len(target), sizes)


def _labels(scores: np.ndarray, target: np.ndarray, cuts: np.ndarray, labels: Sequence[str]) -> Scorer:
    """Return the scorer of labels that do not exclude each other; every label's values are computed once."""
    known = [np.flatnonzero(target[:, i] >= 0) for i in range(len(labels))]
    tasks = [_binary(scores[rows, i], target[rows, i] == 1, cuts[i]) for i, rows in enumerate(known)]

    def score(counts: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore", divide="ignore"):  # no item of the label was drawn
            found = [
                {kind: metric(counts[..., rows]) for kind, metric in task.items()}
                for task, rows in zip(tasks, known, strict=True)
            ]
        values = {f"{kind}_{label}": of[kind] for label, of in zip(labels, found, strict=True) for kind in of}
        for kind in MEANS:
            every = np.stack([of[kind] for of in found])
            values["ece" if kind == "ece" else f"macro_{kind}"] = mean_of_defined(every)
        return values

    return score


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    number = defined.sum(0)
    total = np.where(defined, values, 0.0).sum(0)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def _at_once(metrics: Metrics) -> Scorer:
    return lambda counts: {name: metric(counts) for name, metric in metrics.items()}


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
