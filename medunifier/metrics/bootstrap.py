"""Bootstrap intervals, by percentiles: for functions of sums over items (means, BLEU, METEOR), and for any other (AUROC)."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

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

    def mirrored(self) -> "Interval":
        """The percentile interval mirrored at the value (Davison and Hinkley 1997, section 5.2), and never below 0.

        For a distance from an ideal, such as calibration error. Chance makes it larger than it is, and drawing anew
        from the sample once more: percentiles then lie above the truth, twice the value minus them about it. They
        may leave out the value itself, which is too large.
        """
        low, high = np.maximum(0.0, 2 * self.value - np.array([self.high, self.low]))  # NaN stays NaN
        return replace(self, low=float(low), high=float(high))


def bootstrap(
    statistics: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
) -> list[Interval]:
    """95 % percentile intervals (Efron 1979) of scores computed from summed statistics.

    Items are drawn with replacement; with `clusters`, whole clusters are (a patient's images are no
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
    members = _members(n, clusters)
    sums = np.zeros((members.max() + 1, statistics.shape[1]))
    np.add.at(sums, members, statistics)
    replicas = [score(counts @ sums) for counts in _draws(len(sums), resamples, seed)]
    return _intervals(score(sums.sum(0)), np.concatenate(replicas), n)


def bootstrap_counts(
    score: Callable[[np.ndarray], np.ndarray],
    n: int,
    *,
    resamples: int,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
) -> list[Interval]:
    """As `bootstrap`, with the same draws, for scores that are no function of sums, such as AUROC.

    Args:
        score: counts [..., n], how often each item was drawn -> scores [..., M]. Draws in which a score is NaN
            (undefined, since a class is missing) do not count for its interval.
    """
    members = _members(n, clusters)
    units = int(members.max()) + 1
    replicas = [score(counts[:, members]) for counts in _draws(units, resamples, seed, cells=max(units, n))]
    return _intervals(score(np.ones(n)), np.concatenate(replicas), n)


def _members(n: int, clusters: Sequence[Hashable] | None) -> np.ndarray:
    """The number of each item's cluster, int64 [n]."""
    if n == 0:
        raise ValueError("nothing to bootstrap: no items")
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} clusters for {n} items")
    return numbered(clusters)


def _draws(units: int, resamples: int, seed: int, cells: int | None = None) -> Iterator[np.ndarray]:
    """How often each of `units` is drawn, int64 [chunk, units], until there are `resamples` draws."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _COUNTS_PER_CHUNK // (cells or units))
    for start in range(0, resamples, chunk):
        yield rng.multinomial(units, np.full(units, 1 / units), size=min(chunk, resamples - start))


def _intervals(values: np.ndarray, replicas: np.ndarray, n: int) -> list[Interval]:
    quantiles = np.nanquantile if np.isnan(replicas).any() else np.quantile
    low, high = quantiles(replicas, [0.025, 0.975], axis=0)
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
