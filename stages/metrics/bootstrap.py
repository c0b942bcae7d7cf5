"""Percentile bootstrap for any score that is a function of sums over items: means, BLEU, METEOR."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

_COUNTS_PER_CHUNK = 4_000_000  # resampling counts held at a time (32 MB)


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % bootstrap interval over `n` items."""

    value: float
    low: float
    high: float
    n: int

    def flat(self, name: str, *, scale: float = 1.0) -> dict[str, float | int]:
        """`NAME`, `NAME_ci_low`, `NAME_ci_high` (each times `scale`; 100 for percent) and `NAME_n`."""
        return {
            name: self.value * scale,
            f"{name}_ci_low": self.low * scale,
            f"{name}_ci_high": self.high * scale,
            f"{name}_n": self.n,
        }


def bootstrap(
    statistics: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
) -> list[Interval]:
    """95 % percentile intervals (Efron 1979) of scores computed from summed statistics.

    Items are drawn with replacement; with `clusters`, whole clusters are (a patient's pictures are no
    independent evidence). The same seed, number of items and clusters give the same draws, so scores of two
    systems on the same items can be compared draw by draw.

    Args:
        statistics: [n items, S], the sufficient statistics of each item.
        score: sums [..., S] -> scores [..., M].
        resamples: number of draws.
        clusters: the cluster of each item, [n]; None: each item is its own.
    Returns: M intervals.
    Raises: ValueError if there is no item, or as many clusters as items are not given.
    """
    statistics = np.asarray(statistics, np.float64)
    n = len(statistics)
    if n == 0:
        raise ValueError("nothing to bootstrap: no items")
    if clusters is not None:
        if len(clusters) != n:
            raise ValueError(f"{len(clusters)} clusters for {n} items")
        members = numbered(clusters)
        sums = np.zeros((members.max() + 1, statistics.shape[1]))
        np.add.at(sums, members, statistics)
    else:
        sums = statistics

    units = len(sums)
    rng = np.random.default_rng(seed)
    replicas = []
    chunk = max(1, _COUNTS_PER_CHUNK // units)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        counts = rng.multinomial(units, np.full(units, 1 / units), size=size)  # (size, units)
        replicas.append(score(counts @ sums))
    low, high = np.quantile(np.concatenate(replicas), [0.025, 0.975], axis=0)
    values = score(sums.sum(0))
    return [Interval(float(v), float(lo), float(hi), n) for v, lo, hi in zip(values, low, high, strict=True)]


def bootstrap_means(scores: np.ndarray, **how) -> list[Interval]:
    """Intervals of the M means of per-item `scores` [n items, M]; `how` as for `bootstrap`."""
    scores = np.asarray(scores, np.float64)
    with_count = np.concatenate([scores, np.ones((len(scores), 1))], axis=1)
    return bootstrap(with_count, lambda sums: sums[..., :-1] / sums[..., -1:], **how)


def numbered(names: Sequence[Hashable]) -> np.ndarray:
    """Equal names as equal numbers, int64 [n]: 0, 1 ... by first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
