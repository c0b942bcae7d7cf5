"""Distances between sets of images in a space of features: precision, recall, kernel distance, nearest neighbours."""

from collections.abc import Iterable

import numpy as np
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

NEIGHBOURS = 3  # the ball around an image reaches to its third nearest neighbour, torch-fidelity's default
SUBSET = 1000  # images in each estimate of the kernel distance
SUBSETS = 100  # estimates that are averaged


def precision_recall(generated: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Compute improved precision and recall (Kynkaanniemi et al. 2019) with torch-fidelity.

    Precision: the share of generated items inside a ball around a real one. Recall: the share of real items inside
    a ball around a generated one. Both depend on the number of items: compare sets of the same sizes.

    Args:
        generated: features, float [n, D], n at least 4.
        real: features, float [m, D], m at least 4.
    """
    found = prc_features_to_metric(
        *(torch.from_numpy(np.ascontiguousarray(side, np.float32)) for side in (generated, real)),
        prc_neighborhood=NEIGHBOURS,
        save_cpu_ram=True,
        verbose=False,
    )
    return found["precision"], found["recall"]


def kernel_distance(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """Compute the squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, with torch-fidelity.

    In Inception's features it is the KID (Binkowski et al. 2018). The estimate is unbiased: unlike a Frechet
    distance it does not grow for small sets, and it may fall below 0 for sets that are alike.

    Args:
        first: features, float [n, D].
        second: features, float [m, D].
        seed: of the subsets.
    """
    size = min(SUBSET, len(first), len(second))
    whole = size == len(first) == len(second)  # every subset would be the same
    found = kid_features_to_metric(
        *(torch.from_numpy(np.asarray(side, np.float64)) for side in (first, second)),
        kid_subsets=1 if whole else SUBSETS,
        kid_subset_size=size,
        rng_seed=seed,
        verbose=False,
    )
    return found["kernel_inception_distance_mean"]


def nearest(queries: np.ndarray, candidates: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest candidate of each query.

    Args:
        queries: float [n, D].
        candidates: batches [k, D], numbered through.

    Returns:
        The root mean square distance to the nearest candidate, float32 [n], and its number, int64 [n].
    """
    queries = np.asarray(queries, np.float32)
    best = np.full(len(queries), np.inf, np.float32)
    numbers = np.full(len(queries), -1, np.int64)
    squares, start = (queries**2).sum(1), 0
    for batch in candidates:
        batch = np.asarray(batch, np.float32)
        distances = squares[:, None] + (batch**2).sum(1) - 2 * queries @ batch.T
        column = distances.argmin(1)
        found = distances[np.arange(len(queries)), column]
        closer = found < best
        best[closer], numbers[closer] = found[closer], start + column[closer]
        start += len(batch)
    return np.sqrt(np.maximum(best, 0) / queries.shape[1]), numbers
