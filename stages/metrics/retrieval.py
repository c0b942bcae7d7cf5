"""Cross-modal retrieval: ranking by similarity, average precision in two readings, recall, chance levels.

Scores are fractions in [0, 1], one for each query. Candidates are ranked by decreasing similarity, equal ones
by their number, so that a ranking never depends on chance or on the size of the blocks.
"""

from collections.abc import Callable, Iterator
from math import comb

import numpy as np

_CELLS = 8_000_000  # similarities held at a time (32 MB), before the maximum over the queries of an image


def rank_texts(images: np.ndarray, texts: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` most similar texts of each image.

    Similarity is the largest dot product over an image's query embeddings (paper Eq. 10 without temperature).

    Args:
        images: [N, Q, P], L2-normalised. texts: [M, P], L2-normalised.
    Returns: numbers of texts, int64 [N, min(k, M)], best first, and their similarities, float32, same shape.
    """

    def similarity(queries: slice, candidates: slice) -> np.ndarray:
        return _similarity(images[queries], texts[candidates])

    return _rank(similarity, len(images), len(texts), k, cells=images.shape[1])


def rank_images(images: np.ndarray, texts: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` most similar images of each text: int64 and float32 [M, min(k, N)]; else as `rank_texts`."""

    def similarity(queries: slice, candidates: slice) -> np.ndarray:
        return _similarity(images[candidates], texts[queries]).T

    return _rank(similarity, len(texts), len(images), k, cells=images.shape[1])


def _similarity(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """[n, m]. Rounded, as the last bits of a matrix product depend on its shape and would break ties."""
    n, queries, width = images.shape
    products = images.reshape(n * queries, width) @ texts.T
    return products.reshape(n, queries, len(texts)).max(1).round(6)


def _rank(
    similarity: Callable[[slice, slice], np.ndarray], n_queries: int, n_candidates: int, k: int, cells: int
) -> tuple[np.ndarray, np.ndarray]:
    k = min(k, n_candidates)
    ids = np.empty((n_queries, k), np.int64)
    scores = np.empty((n_queries, k), np.float32)
    side = max(1, int((_CELLS / cells) ** 0.5))
    for queries in _blocks(n_queries, side):
        best_scores = np.empty((queries.stop - queries.start, 0), np.float32)
        best_ids = np.empty_like(best_scores, np.int64)
        for candidates in _blocks(n_candidates, side):
            found = similarity(queries, candidates)
            numbers = np.broadcast_to(np.arange(candidates.start, candidates.stop), found.shape)
            # Earlier candidates come first, and top_columns prefers them among equals.
            found = np.concatenate([best_scores, found], axis=1)
            numbers = np.concatenate([best_ids, numbers], axis=1)
            columns = _top_columns(found, min(k, found.shape[1]))
            best_scores = np.take_along_axis(found, columns, axis=1)
            best_ids = np.take_along_axis(numbers, columns, axis=1)
        ids[queries], scores[queries] = best_ids, best_scores
    return ids, scores


def _top_columns(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k largest values of each row, largest first, the lower column first among equals."""
    width = scores.shape[1]
    threshold = np.partition(scores, width - k, axis=1)[:, width - k, None]
    rows, columns = np.nonzero(scores >= threshold)  # at least k in each row
    order = np.lexsort((columns, -scores[rows, columns], rows))
    starts = np.searchsorted(rows, np.arange(len(scores)))
    return columns[order[starts[:, None] + np.arange(k)]]


def _blocks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def average_precision(relevant: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """AP@K of each query, textbook form: summed precisions at the hits / min(K, relevant candidates).

    Args:
        relevant: bool [Q, >= K or all candidates], whether each ranked candidate is relevant, best first.
        n_relevant: int [Q], relevant candidates in all, at least 1.
    """
    return _summed_precisions(relevant[:, :k]) / np.minimum(k, n_relevant)


def average_precision_release(relevant: np.ndarray, k: int) -> np.ndarray:
    """AP@K of each query as the authors' release computes it: summed precisions / hits within K (0 if none)."""
    return _summed_precisions(relevant[:, :k]) / np.maximum(relevant[:, :k].sum(1), 1)


def recall(relevant: np.ndarray, k: int) -> np.ndarray:
    """Recall@K of each query in the sense of the field: 1 if a relevant candidate is within K, else 0."""
    return relevant[:, :k].any(1).astype(float)


def _summed_precisions(relevant: np.ndarray) -> np.ndarray:
    precision = np.cumsum(relevant, axis=1) / np.arange(1, relevant.shape[1] + 1)
    return (precision * relevant).sum(1)


def chance_average_precision(n_relevant: int, n_candidates: int, k: int) -> float:
    """Expected `average_precision` of a random ranking; exact.

    Rank i is relevant with probability R/M, together with an earlier rank with R(R-1)/(M(M-1)).
    """
    r, m = n_relevant, n_candidates
    pair = r * (r - 1) / (m * (m - 1)) if m > 1 else 0.0
    return sum((r / m + (i - 1) * pair) / i for i in range(1, min(k, m) + 1)) / min(k, r)


def chance_average_precision_release(n_relevant: int, n_candidates: int, k: int) -> float:
    """Expected `average_precision_release` of a random ranking; exact.

    The number of hits within K is hypergeometric; given it, the hits' places are uniform, which is the
    textbook form with K candidates.
    """
    r, m = n_relevant, n_candidates
    k = min(k, m)
    expected = 0.0
    for hits in range(max(1, k - (m - r)), min(k, r) + 1):
        probability = comb(r, hits) * comb(m - r, k - hits) / comb(m, k)
        expected += probability * chance_average_precision(hits, k, k)
    return expected


def chance_recall(n_relevant: int, n_candidates: int, k: int) -> float:
    """Expected `recall` of a random ranking; exact."""
    k = min(k, n_candidates)
    return 1 - comb(n_candidates - n_relevant, k) / comb(n_candidates, k)
