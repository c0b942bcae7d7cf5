"""Classification metrics from scores: AUROC, average precision, metrics at a threshold, calibration.

For the bootstrap, functions take `counts`, how often each item was drawn, so that a thousand draws cost one sorting.
Values are fractions in [0, 1]. A metric that a draw leaves undefined (one class is missing in it) is NaN.
"""

import numpy as np

BINS = 10  # of equal width, for calibration


def auroc(scores: np.ndarray, positive: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Compute the area under the ROC curve, equal scores counted half (Hanley and McNeil 1982).

    Args:
        scores: [n].
        positive: bool [n].
        counts: How often each item was drawn, [..., n]; None: every item once.

    Returns:
        float64 [...].
    """
    hits, misses = _by_threshold(scores, positive, counts)
    below = misses[..., ::-1].cumsum(-1)[..., ::-1] - misses  # negatives with a smaller score
    with np.errstate(invalid="ignore", divide="ignore"):
        return (hits * (below + misses / 2)).sum(-1) / (hits.sum(-1) * misses.sum(-1))


def average_precision(
    scores: np.ndarray, positive: np.ndarray, counts: np.ndarray | None = None
) -> np.ndarray:
    """Compute average precision, the step sum of precision over recall; arguments as for `auroc`."""
    hits, misses = _by_threshold(scores, positive, counts)
    found, called = hits.cumsum(-1), (hits + misses).cumsum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, found / called, 0.0)
        return (hits * precision).sum(-1) / hits.sum(-1)


def _by_threshold(
    scores: np.ndarray, positive: np.ndarray, counts: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the drawn positives and negatives at each distinct score, highest first: float64 [..., scores] each."""
    counts = np.ones(len(scores)) if counts is None else counts
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    drawn, positive = counts[..., order].astype(np.float64), positive[order]
    return (
        np.add.reduceat(drawn * positive, starts, axis=-1),
        np.add.reduceat(drawn * ~positive, starts, axis=-1),
    )


def roc_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates at every threshold, from (0, 0) to (1, 1)."""
    hits, misses = _by_threshold(scores, positive, None)
    rates = [np.concatenate([[0.0], part.cumsum() / max(part.sum(), 1)]) for part in (misses, hits)]
    return rates[0], rates[1]


def best_threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the threshold with the largest sensitivity + specificity (Youden 1950); scores from it on are positive.

    It lies half-way between the two neighbouring scores; among equals it is the highest. To be chosen on validation
    data, never on test data.
    """
    false, true = roc_curve(scores, positive)
    distinct = np.unique(scores)[::-1]
    best = int(np.argmax(true - false))
    if best == 0:
        return float(np.nextafter(distinct[0], np.inf))
    if best == len(distinct):
        return float(distinct[-1])
    return float((distinct[best - 1] + distinct[best]) / 2)


def confusion(called: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Count true positives, false positives, true and false negatives, [...] each; `called`, `positive` bool [n]."""
    cases = (called & positive, called & ~positive, ~called & ~positive, ~called & positive)
    return tuple(counts @ case.astype(np.float64) for case in cases)


def f1(called: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Compute F1 of the positive class, 0 where nothing is right."""
    tp, fp, _, fn = confusion(called, positive, counts)
    return _ratio(2 * tp, 2 * tp + fp + fn, empty=0.0)


def sensitivity(called: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Compute the share of the positives that are called positive."""
    tp, _, _, fn = confusion(called, positive, counts)
    return _ratio(tp, tp + fn)


def specificity(called: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Compute the share of the negatives that are called negative."""
    _, fp, tn, _ = confusion(called, positive, counts)
    return _ratio(tn, tn + fp)


def _ratio(above: np.ndarray, below: np.ndarray, empty: float = np.nan) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(above, empty, dtype=np.float64), where=below > 0)


def calibration_error(confidence: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Compute the expected calibration error over `BINS` bins of equal width (Guo et al. 2017, Eq. 3).

    Args:
        confidence: Predicted probability of the predicted class (of the positive class in a binary task), [n].
        right: Whether that class is the true one, bool [n].
        counts: How often each item was drawn, [..., n].

    Returns:
        float64 [...].
    """
    error = np.zeros(np.shape(counts)[:-1])
    for chosen in _bins(confidence):
        drawn = counts * chosen
        error += np.abs(drawn @ confidence - drawn @ right.astype(np.float64))
    return error / np.sum(counts, axis=-1)


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[tuple[float, float, int]]:
    """Return (mean confidence, share that is right, items) of each bin that holds items."""
    return [
        (float(confidence[chosen].mean()), float(right[chosen].mean()), int(chosen.sum()))
        for chosen in _bins(confidence)
        if chosen.any()
    ]


def _bins(confidence: np.ndarray) -> np.ndarray:
    """Return which items are in each bin, bool [BINS, n]; 1.0 belongs to the last."""
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return number == np.arange(BINS)[:, None]
