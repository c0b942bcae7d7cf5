"""Retrieval metrics of each query, with chance levels and bootstrap confidence intervals."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from medunifier.metrics import retrieval
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means


def query_scores(
    ranked: np.ndarray, classes: np.ndarray, pairs: np.ndarray, ks: Sequence[int]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Score every query of a ranking. Queries and candidates are the same n items.

    For mAP@K a candidate is relevant if it is of the query's class; for Recall@K if it has the query's very report.

    Args:
        ranked: Candidates of each query, best first, int64 [n, depth].
        classes: int64 [n], equal where two items are of one class.
        pairs: int64 [n], equal where two items have the same report.
        ks: The K of the metrics.

    Returns:
        Each metric's score of every query, [n] in [0, 1], and its chance level, both by name.
    """
    n = len(ranked)
    in_class, in_pair = np.bincount(classes)[classes], np.bincount(pairs)[pairs]  # relevant candidates, [n]
    same_class, same_pair = classes[ranked] == classes[:, None], pairs[ranked] == pairs[:, None]

    scores: dict[str, np.ndarray] = {}
    chances: dict[str, float] = {}
    for k in ks:
        scores[f"map_at_{k}"] = retrieval.average_precision(same_class, in_class, k)
        scores[f"map_release_at_{k}"] = retrieval.average_precision_authors(same_class, k)
        scores[f"recall_at_{k}"] = retrieval.recall(same_pair, k)
        for name, chance, relevant in (
            ("map", retrieval.chance_average_precision, in_class),
            ("map_release", retrieval.chance_average_precision_authors, in_class),
            ("recall", retrieval.chance_recall, in_pair),
        ):
            chances[f"{name}_at_{k}"] = mean_chance(chance, relevant, n, k)
    return scores, chances


def mean_chance(
    chance: Callable[[int, int, int], float], n_relevant: np.ndarray, n_candidates: int, k: int
) -> float:
    """Return the mean over queries of `chance(relevant candidates, candidates, K)`."""
    sizes, counts = np.unique(n_relevant, return_counts=True)
    return float(np.average([chance(int(size), n_candidates, k) for size in sizes], weights=counts))


def retrieval_metrics(
    scores: Mapping[str, np.ndarray], chances: Mapping[str, float], options: BootstrapOptions
) -> dict[str, float | int]:
    """Return flat metrics of one direction, in percent, with confidence intervals and chance levels.

    Args:
        scores: Scores of every query by metric, from `query_scores`.
        chances: Chance levels by metric, from `query_scores`.
        options: How to resample queries.
    """
    matrix = np.stack(list(scores.values()), axis=1)
    metrics: dict[str, float | int] = {}
    for name, interval in zip(scores, bootstrap_means(matrix, options), strict=True):
        metrics |= interval.flat(name, scale=100)
        metrics[f"{name}_chance"] = 100 * chances[name]
    return metrics
