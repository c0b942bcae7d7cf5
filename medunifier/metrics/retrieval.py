"""Cross-modal retrieval: ranking by similarity, average precision in two definitions, recall, chance levels.

Values are fractions in [0, 1], one for each query. Candidates are ranked by decreasing similarity, equal ones by
their number, so that a ranking depends neither on chance nor on the size of the blocks.
"""

from collections.abc import Iterator
from math import comb

import numpy as np
import torch

_IMAGES, _TEXTS = 512, 2048  # a block of similarities: 4 MB, which stays in the processor's cache


def rank_texts(images: np.ndarray, texts: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rank the `k` most similar texts of each image.

    Similarity is the largest dot product over an image's query embeddings (paper Eq. 10 without temperature).

    Args:
        images: Embeddings [N, Q, P], L2-normalised.
        texts: Embeddings [M, P], L2-normalised.
        k: Number of texts for each image.

    Returns:
        Numbers of texts, int64 [N, min(k, M)], best first, and their similarities, float32, of the same shape.
    """
    return _rank(images, texts, k, 0)[0]


def rank_images(images: np.ndarray, texts: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rank the `k` most similar images of each text: int64 and float32 [M, min(k, N)]; otherwise as `rank_texts`."""
    return _rank(images, texts, 0, k)[1]


def rank_both(
    images: np.ndarray, texts: np.ndarray, k: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return `rank_texts` and `rank_images`, with each similarity computed once."""
    return _rank(images, texts, k, k)


def _rank(images: np.ndarray, texts: np.ndarray, k_texts: int, k_images: int) -> tuple:
    """Rank exactly, block by block: memory grows with N + M, not with N x M."""
    # torch, since its maxima are computed by all cores, NumPy's by one
    by_query = torch.from_numpy(np.ascontiguousarray(images.transpose(1, 0, 2), np.float32))  # (Q, N, P)
    across = torch.from_numpy(np.ascontiguousarray(texts.T, np.float32))  # (P, M)
    of_images = _Best(len(images), min(k_texts, len(texts)))
    of_texts = _Best(len(texts), min(k_images, len(images)))
    for rows in _blocks(len(images), _IMAGES):
        for columns in _blocks(len(texts), _TEXTS):
            found = _similarity(by_query[:, rows], across[:, columns])
            of_images.update(rows, columns.start, found)
            of_texts.update(columns, rows.start, found.T)
    return (of_images.ids, of_images.scores), (of_texts.ids, of_texts.scores)


def _similarity(images: torch.Tensor, texts: torch.Tensor) -> np.ndarray:
    """Return the similarity [n, m] of images (Q, n, P) to texts (P, m).

    It is rounded, since the last bits of a matrix product depend on its shape and would break ties.
    """
    best = images[0] @ texts
    product = torch.empty_like(best)
    for query in images[1:]:
        torch.mm(query, texts, out=product)
        torch.maximum(best, product, out=best)
    found = best.numpy()
    return found.round(6, out=found)


class _Best:
    """The `k` best candidates of each of `n` queries so far. Candidates come in ascending order of their numbers."""

    def __init__(self, n: int, k: int):
        self.k = k
        self.scores = np.full((n, k), -np.inf, np.float32)
        self.ids = np.zeros((n, k), np.int64)

    def update(self, queries: slice, first: int, found: np.ndarray) -> None:
        """Take candidates first, first + 1 ... into account, by their scores [queries, candidates]."""
        if self.k == 0:
            return
        if first == 0:
            columns = _top_columns(found, min(self.k, found.shape[1]))
            self.ids[queries, : columns.shape[1]] = columns
            self.scores[queries, : columns.shape[1]] = np.take_along_axis(found, columns, axis=1)
            return
        # A later candidate must be better than the k-th so far: among equals the earlier one stays.
        better = np.flatnonzero((found > self.scores[queries, -1:]).any(1))
        if len(better) == 0:
            return
        rows = better + queries.start
        old_scores, old_ids, found = self.scores[rows], self.ids[rows], found[better]
        columns = _top_columns(found, min(self.k, found.shape[1]))
        scores = np.concatenate([old_scores, np.take_along_axis(found, columns, axis=1)], axis=1)
        ids = np.concatenate([old_ids, columns + first], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.k]
        self.scores[rows] = np.take_along_axis(scores, order, axis=1)
        self.ids[rows] = np.take_along_axis(ids, order, axis=1)


def _top_columns(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of the k largest values of each row, largest first, the lower column first among equals."""
    width = scores.shape[1]
    threshold = np.partition(scores, width - k, axis=1)[:, width - k, None]
    rows, columns = np.nonzero(scores >= threshold)  # at least k in each row
    order = np.lexsort((columns, -scores[rows, columns], rows))
    starts = np.searchsorted(rows, np.arange(len(scores)))
    return columns[order[starts[:, None] + np.arange(k)]]


def rerank(ranked: np.ndarray, scores: np.ndarray, more: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Re-rank the first K candidates of each query by their scores plus `more`.

    Args:
        ranked: Candidates of each query, best first, int64 [n, depth].
        scores: Their scores, [n, depth].
        more: What is added to the scores of the first K, [n, K].

    Returns:
        Candidates and scores in the new order, [n, depth] each.
    """
    k = more.shape[1]
    total = scores[:, :k] + more
    order = np.argsort(-total, axis=1, kind="stable")
    first = [np.take_along_axis(part, order, axis=1) for part in (ranked[:, :k], total)]
    return np.concatenate([first[0], ranked[:, k:]], axis=1), np.concatenate(
        [first[1], scores[:, k:]], axis=1
    )


def _blocks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def average_precision(relevant: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """Compute AP@K of each query, textbook form: summed precisions at the hits / min(K, relevant candidates).

    Args:
        relevant: Whether each ranked candidate is relevant, best first, bool [Q, >= K or all candidates].
        n_relevant: Relevant candidates in all, at least 1, int [Q].
        k: K.
    """
    return _summed_precisions(relevant[:, :k]) / np.minimum(k, n_relevant)


def average_precision_authors(relevant: np.ndarray, k: int) -> np.ndarray:
    """Compute AP@K of each query as the authors' code does: summed precisions / hits within K (0 if none)."""
    return _summed_precisions(relevant[:, :k]) / np.maximum(relevant[:, :k].sum(1), 1)


def recall(relevant: np.ndarray, k: int) -> np.ndarray:
    """Compute Recall@K of each query in the sense of the field: 1 if a relevant candidate is within K, else 0."""
    return relevant[:, :k].any(1).astype(float)


def _summed_precisions(relevant: np.ndarray) -> np.ndarray:
    precision = np.cumsum(relevant, axis=1) / np.arange(1, relevant.shape[1] + 1)
    return (precision * relevant).sum(1)


def chance_average_precision(n_relevant: int, n_candidates: int, k: int) -> float:
    """Return the expected `average_precision` of a random ranking, exactly.

    Rank i is relevant with probability R/M, together with an earlier rank with R(R-1)/(M(M-1)).
    """
    r, m = n_relevant, n_candidates
    pair = r * (r - 1) / (m * (m - 1)) if m > 1 else 0.0
    return sum((r / m + (i - 1) * pair) / i for i in range(1, min(k, m) + 1)) / min(k, r)


def chance_average_precision_authors(n_relevant: int, n_candidates: int, k: int) -> float:
    """Return the expected `average_precision_authors` of a random ranking, exactly.

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
    """Return the expected `recall` of a random ranking, exactly."""
    k = min(k, n_candidates)
    return 1 - comb(n_candidates - n_relevant, k) / comb(n_candidates, k)
