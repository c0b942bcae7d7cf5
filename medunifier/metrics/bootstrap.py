"""Bootstrap confidence intervals by percentiles, for functions of sums over items (BLEU) and for others (AUROC)."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

_COUNTS_PER_CHUNK = 4_000_000  # resampling counts held at a time (32 MB)


@dataclass(frozen=True)
class BootstrapOptions:
    """How a bootstrap resamples items.

    The same seed, number of items and clusters give the same draws, so two systems that are scored on the same
    items can be compared draw by draw.

    Attributes:
        resamples: Number of draws with replacement.
        seed: Seed of the draws.
        clusters: The cluster of each item, [n], such as its patient. Whole clusters are resampled, since the images
            of one patient are no independent evidence. None: each item is a cluster of its own.
    """

    resamples: int
    seed: int
    clusters: Sequence[Hashable] | None = None

    def with_clusters(self, clusters: Sequence[Hashable]) -> "BootstrapOptions":
        """Return the same options with these clusters, [n]."""
        return replace(self, clusters=clusters)

    def take(self, rows: np.ndarray) -> "BootstrapOptions":
        """Return the options for a selection of the items, given by row numbers [m]."""
        if self.clusters is None:
            return self
        return self.with_clusters([self.clusters[row] for row in rows])


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % bootstrap confidence interval over `n` items."""

    value: float
    low: float
    high: float
    n: int

    def flat(self, name: str, *, scale: float = 1.0) -> dict[str, float | int]:
        """Return `NAME`, `NAME_ci_low`, `NAME_ci_high` (each times `scale`; 100 for percent) and `NAME_n`."""
        return {
            name: self.value * scale,
            f"{name}_ci_low": self.low * scale,
            f"{name}_ci_high": self.high * scale,
            f"{name}_n": self.n,
        }

    def mirrored(self) -> "Interval":
        """Return the interval mirrored at the value, and never below 0 (Davison and Hinkley 1997, section 5.2).

        For a distance from an ideal, such as calibration error. Chance makes it larger than it is, and resampling
        does so once more: percentiles then lie above the truth, twice the value minus them around it. The mirrored
        interval may leave out the value itself, which is too large.
        """
        low, high = np.maximum(0.0, 2 * self.value - np.array([self.high, self.low]))  # NaN stays NaN
        return replace(self, low=float(low), high=float(high))


def bootstrap(
    statistics: np.ndarray, score: Callable[[np.ndarray], np.ndarray], options: BootstrapOptions
) -> list[Interval]:
    """Compute 95 % percentile intervals (Efron 1979) of scores that are functions of summed statistics.

    Args:
        statistics: Sufficient statistics of each item, [n items, S].
        score: Maps sums [..., S] to scores [..., M].
        options: How to resample.

    Returns:
        One interval for each of the M scores.

    Raises:
        ValueError: If there is no item, or if the number of clusters is not that of the items.
    """
    statistics = np.asarray(statistics, np.float64)
    n = len(statistics)
    members = _members(n, options.clusters)
    sums = np.zeros((members.max() + 1, statistics.shape[1]))
    np.add.at(sums, members, statistics)
    replicas = [score(counts @ sums) for counts in _draws(len(sums), options)]
    return _intervals(score(sums.sum(0)), np.concatenate(replicas), n)


def bootstrap_counts(
    score: Callable[[np.ndarray], np.ndarray], n: int, options: BootstrapOptions
) -> list[Interval]:
    """Compute intervals as `bootstrap` does, with the same draws, for scores that are no function of sums.

    Args:
        score: Maps counts [..., n], how often each item was drawn, to scores [..., M]. A draw in which a score is
            NaN (undefined, since a class is missing) does not count for the interval of this score.
        n: Number of items.
        options: How to resample.

    Returns:
        One interval for each of the M scores.

    Raises:
        ValueError: As `bootstrap`.
    """
    members = _members(n, options.clusters)
    units = int(members.max()) + 1
    replicas = [score(counts[:, members]) for counts in _draws(units, options, cells=max(units, n))]
    return _intervals(score(np.ones(n)), np.concatenate(replicas), n)


def bootstrap_means(scores: np.ndarray, options: BootstrapOptions) -> list[Interval]:
    """Compute intervals of the M means of per-item `scores` [n items, M], as `bootstrap` does."""
    scores = np.asarray(scores, np.float64)
    with_count = np.concatenate([scores, np.ones((len(scores), 1))], axis=1)
    return bootstrap(with_count, lambda sums: sums[..., :-1] / sums[..., -1:], options)


def numbered(names: Sequence[Hashable]) -> np.ndarray:
    """Return equal names as equal numbers, int64 [n]: 0, 1 ... by first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _members(n: int, clusters: Sequence[Hashable] | None) -> np.ndarray:
    """Return the number of each item's cluster, int64 [n]."""
    if n == 0:
        raise ValueError("nothing to bootstrap: no items")
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} clusters for {n} items")
    return numbered(clusters)


def _draws(units: int, options: BootstrapOptions, cells: int | None = None) -> Iterator[np.ndarray]:
    """Yield how often each of `units` is drawn, int64 [chunk, units], until all resamples are drawn."""
    rng = np.random.default_rng(options.seed)
    chunk = max(1, _COUNTS_PER_CHUNK // (cells or units))
    for start in range(0, options.resamples, chunk):
        size = min(chunk, options.resamples - start)
        yield rng.multinomial(units, np.full(units, 1 / units), size=size)


def _intervals(values: np.ndarray, replicas: np.ndarray, n: int) -> list[Interval]:
    quantiles = np.nanquantile if np.isnan(replicas).any() else np.quantile
    low, high = quantiles(replicas, [0.025, 0.975], axis=0)
    return [Interval(float(v), float(lo), float(hi), n) for v, lo, hi in zip(values, low, high, strict=True)]
