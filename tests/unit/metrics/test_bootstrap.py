"""Intervals against scipy's bootstrap, a slow loop, and what sampling theory says."""

from dataclasses import astuple

import numpy as np
import pytest
from scipy import stats

from medunifier.metrics.bootstrap import BootstrapOptions, Interval, bootstrap, bootstrap_means, numbered


def test_means_agree_with_scipy():
    scores = np.random.default_rng(0).exponential(size=200)
    (ours,) = bootstrap_means(scores[:, None], BootstrapOptions(4000, 1))
    theirs = stats.bootstrap(
        (scores,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.value == pytest.approx(scores.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * width)
    assert ours.n == 200


def test_ratio_of_sums_agrees_with_a_slow_loop():
    rng = np.random.default_rng(3)
    statistics = rng.uniform(1, 5, (40, 2))
    (ours,) = bootstrap(statistics, lambda s: s[..., :1] / s[..., 1:], BootstrapOptions(4000, 0))
    slow = []
    for _ in range(4000):
        drawn = statistics[rng.integers(0, 40, 40)]
        slow.append(drawn[:, 0].sum() / drawn[:, 1].sum())
    low, high = np.quantile(slow, [0.025, 0.975])
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_clusters_widen_the_interval_as_theory_says():
    """20 identical copies of each patient's image carry the information of one."""
    patients = np.random.default_rng(0).normal(size=100)
    scores, clusters = np.repeat(patients, 20)[:, None], np.repeat(np.arange(100), 20)
    (blind,) = bootstrap_means(scores, BootstrapOptions(2000, 0))
    (aware,) = bootstrap_means(scores, BootstrapOptions(2000, 0, clusters=[f"p{c}" for c in clusters]))
    (once,) = bootstrap_means(patients[:, None], BootstrapOptions(2000, 0))
    assert (aware.low, aware.high) == pytest.approx((once.low, once.high))
    assert (aware.high - aware.low) / (blind.high - blind.low) == pytest.approx(20**0.5, rel=0.1)


def test_unequal_clusters_agree_with_a_slow_loop():
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 12, 60)
    scores = rng.normal(size=60) + clusters
    (ours,) = bootstrap_means(scores[:, None], BootstrapOptions(4000, 0, clusters=clusters.tolist()))
    slow = []
    for _ in range(4000):
        drawn = np.concatenate([scores[clusters == c] for c in rng.choice(np.unique(clusters), 12)])
        slow.append(drawn.mean())
    low, high = np.quantile(slow, [0.025, 0.975])
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        (found,) = bootstrap_means(rng.normal(size=(60, 1)), BootstrapOptions(300, seed))
        hits += found.low <= 0 <= found.high
    assert 178 <= hits <= 198


def test_chunks_do_not_change_the_result(monkeypatch):
    scores = np.random.default_rng(0).normal(size=(30, 2))
    whole = bootstrap_means(scores, BootstrapOptions(100, 0))
    monkeypatch.setattr("medunifier.metrics.bootstrap._COUNTS_PER_CHUNK", 7 * 30)
    for chunked, expected in zip(bootstrap_means(scores, BootstrapOptions(100, 0)), whole, strict=True):
        assert astuple(chunked) == pytest.approx(astuple(expected))
    assert bootstrap_means(scores, BootstrapOptions(100, 1))[0].low != pytest.approx(whole[0].low)


def test_nothing_to_draw_from_is_an_error():
    with pytest.raises(ValueError, match="no items"):
        bootstrap_means(np.empty((0, 1)), BootstrapOptions(10, 0))
    with pytest.raises(ValueError, match="2 clusters for 3 items"):
        bootstrap_means(np.ones((3, 1)), BootstrapOptions(10, 0, clusters=["a", "b"]))


def test_flat_names_and_scale():
    flat = Interval(0.5, 0.25, 0.75, 8).flat("bleu_4", scale=100)
    assert flat == {"bleu_4": 50.0, "bleu_4_ci_low": 25.0, "bleu_4_ci_high": 75.0, "bleu_4_n": 8}


def test_mirrored_at_the_value_and_never_below_zero():
    assert Interval(0.3, 0.25, 0.5, 9).mirrored() == Interval(0.3, pytest.approx(0.1), pytest.approx(0.35), 9)
    assert Interval(0.1, 0.15, 0.5, 9).mirrored() == Interval(0.1, 0.0, pytest.approx(0.05), 9)
    nothing = Interval(np.nan, np.nan, np.nan, 9).mirrored()
    assert np.isnan([nothing.low, nothing.high]).all()


def test_numbered():
    assert numbered(["b", "a", "b"]).tolist() == [0, 1, 0]


def test_options_for_some_items_keep_their_clusters():
    options = BootstrapOptions(10, 0)
    assert options.take(np.array([1])) == options
    chosen = options.with_clusters(["a", "b", "c"]).take(np.array([2, 0]))
    assert chosen == BootstrapOptions(10, 0, ["c", "a"])
