"""What a classifier is judged by: one figure of merit after the other, over one or several seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medunifier.metrics import classification as c
from medunifier.metrics.bootstrap import BootstrapOptions, Interval, bootstrap_counts

Figures = dict[str, Callable[[np.ndarray], np.ndarray]]  # name -> (counts [..., n] -> figures [...])


@dataclass(frozen=True)
class Judged:
    """Figures of merit of the same test items under each seed."""

    names: tuple[str, ...]
    seeds: tuple[Figures, ...]
    chance: dict[str, float]  # what a classifier reaches that knows nothing of the images
    thresholds: dict[str, float]  # mean over seeds, a probability
    n: int
    sizes: dict[str, int]  # of figures that look at a part of the items, such as sensitivity: how many

    def intervals(self, options: BootstrapOptions) -> dict[str, Interval]:
        """The means over seeds with their intervals, by name.

        All are percentile intervals but that of `ece`, which is mirrored (`Interval.mirrored`).
        """
        found = dict(zip(self.names, bootstrap_counts(self.score, self.n, options), strict=True))
        if "ece" in found:
            found["ece"] = found["ece"].mirrored()
        return {name: replace(interval, n=self.sizes.get(name, self.n)) for name, interval in found.items()}

    def score(self, counts: np.ndarray) -> np.ndarray:
        """Counts [..., n] -> figures [..., names], means over the seeds; for `bootstrap_counts`."""
        return np.mean([[seed[name](counts) for name in self.names] for seed in self.seeds], axis=0).T

    def spread(self) -> dict[str, float]:
        """Standard deviation between seeds of each figure; nothing for a single seed."""
        if len(self.seeds) == 1:
            return {}
        once = np.ones(self.n)
        return {name: float(np.std([seed[name](once) for seed in self.seeds], ddof=1)) for name in self.names}


def judge_binary(
    test: Sequence[np.ndarray],
    target: np.ndarray,
    validate: Sequence[np.ndarray],
    validate_target: np.ndarray,
) -> Judged:
    """Figures of merit of a binary task.

    AUROC, average precision (`auprc`), F1, sensitivity and specificity at the threshold that is best on
    validation, calibration error (`ece`).

    Args:
        test, validate: probabilities [n, 2] of each seed. Targets: 0 or 1, int64 [n].
    """
    cuts = [c.best_threshold(scores[:, 1], validate_target == 1) for scores in validate]
    seeds = tuple(_binary(scores[:, 1], target == 1, cut) for scores, cut in zip(test, cuts, strict=True))
    chance = {"auroc": 0.5, "auprc": float((target == 1).mean())}
    positives = int((target == 1).sum())
    sizes = {"sensitivity": positives, "specificity": len(target) - positives}
    return Judged(tuple(seeds[0]), seeds, chance, {"threshold": float(np.mean(cuts))}, len(target), sizes)


def judge_exclusive(test: Sequence[np.ndarray], target: np.ndarray, classes: Sequence[str]) -> Judged:
    """Figures of merit where the most probable of C classes is the answer.

    Accuracy; macro means of AUROC, average precision and F1; calibration error (`ece`); each class's sensitivity
    and specificity.

    Args:
        test: probabilities [n, C] of each seed. target: class numbers, int64 [n].
    """
    seeds = tuple(_exclusive(scores, target, classes) for scores in test)
    held = np.bincount(target, minlength=len(classes))
    share = held / len(target)
    chance = {"accuracy": float(share.max()), "macro_auroc": 0.5, "macro_auprc": float(share.mean())}
    sizes = {f"sensitivity_{name}": int(n) for name, n in zip(classes, held, strict=True)}
    sizes |= {f"specificity_{name}": len(target) - int(n) for name, n in zip(classes, held, strict=True)}
    return Judged(tuple(seeds[0]), seeds, chance, {}, len(target), sizes)


def _binary(scores: np.ndarray, positive: np.ndarray, cut: float) -> Figures:
    called = scores >= cut
    return {
        "auroc": lambda counts: c.auroc(scores, positive, counts),
        "auprc": lambda counts: c.average_precision(scores, positive, counts),
        "f1": lambda counts: c.f1(called, positive, counts),
        "sensitivity": lambda counts: c.sensitivity(called, positive, counts),
        "specificity": lambda counts: c.specificity(called, positive, counts),
        "ece": lambda counts: c.calibration_error(scores, positive, counts),
    }


def _exclusive(scores: np.ndarray, target: np.ndarray, classes: Sequence[str]) -> Figures:
    called = scores.argmax(1)
    right = called == target
    numbers = range(len(classes))

    def macro(figure: Callable[..., np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda counts: np.mean([figure(scores[:, i], target == i, counts) for i in numbers], axis=0)

    figures: Figures = {
        "accuracy": lambda counts: counts @ right.astype(np.float64) / counts.sum(-1),
        "macro_auroc": macro(c.auroc),
        "macro_auprc": macro(c.average_precision),
        "macro_f1": lambda counts: np.mean([c.f1(called == i, target == i, counts) for i in numbers], axis=0),
        "ece": lambda counts: c.calibration_error(scores.max(1), right, counts),
    }
    for i, name in enumerate(classes):
        for kind, figure in (("sensitivity", c.sensitivity), ("specificity", c.specificity)):
            figures[f"{kind}_{name}"] = lambda counts, i=i, figure=figure: figure(
                called == i, target == i, counts
            )
    return figures
