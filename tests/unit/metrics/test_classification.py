"""Classification metrics against scikit-learn, with ties and with weights."""

import numpy as np
import pytest
from sklearn import metrics as sk

from medunifier.metrics import classification as c
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_counts, bootstrap_means


def example(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, labels, and 5 rows of counts in which some items are missing."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    scores = np.round(rng.random(n) * 0.6 + 0.4 * positive * rng.random(n), 1)
    return scores, positive, rng.integers(0, 4, (5, n))


@pytest.mark.parametrize("seed", range(5))
def test_areas_are_those_of_scikit_learn(seed):
    scores, positive, counts = example(seed)
    for mine, theirs in ((c.auroc, sk.roc_auc_score), (c.average_precision, sk.average_precision_score)):
        assert mine(scores, positive) == pytest.approx(theirs(positive, scores))
        expected = [theirs(positive, scores, sample_weight=row) for row in counts]
        assert mine(scores, positive, counts) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_at_a_threshold_are_those_of_scikit_learn(seed):
    scores, positive, counts = example(seed)
    called = scores >= 0.5
    for mine, theirs in ((c.f1, sk.f1_score), (c.sensitivity, sk.recall_score)):
        expected = [theirs(positive, called, sample_weight=row) for row in counts]
        assert mine(called, positive, counts) == pytest.approx(expected)
    expected = [sk.recall_score(~positive, ~called, sample_weight=row) for row in counts]
    assert c.specificity(called, positive, counts) == pytest.approx(expected)


def test_the_curve_is_that_of_scikit_learn():
    scores, positive, _ = example(1)
    false, true, _ = sk.roc_curve(positive, scores, drop_intermediate=False)
    mine = c.roc_curve(scores, positive)
    assert mine[0] == pytest.approx(false) and mine[1] == pytest.approx(true)


@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_is_better_than_the_best(seed):
    scores, positive, _ = example(seed)
    once = np.ones(len(scores))

    def youden(threshold):
        called = scores >= threshold
        return c.sensitivity(called, positive, once) + c.specificity(called, positive, once)

    best = youden(c.best_threshold(scores, positive))
    assert best >= max(youden(t) for t in [*np.unique(scores), 2.0]) - 1e-12


def test_scores_that_say_nothing_call_nothing_or_all():
    positive = np.array([True, False])
    assert c.best_threshold(np.array([0.1, 0.9]), positive) > 0.9
    assert c.best_threshold(np.array([0.9, 0.1]), positive) == pytest.approx(0.5)


def test_calibration_by_hand():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, True, False])
    # bin 0.9-1: |0.95 - 0.75| of 4; bin 0.5-0.6: |0.55 - 0.5| of 2
    assert c.calibration_error(confidence, right, np.ones(6)) == pytest.approx((4 * 0.2 + 2 * 0.05) / 6)
    assert c.reliability(confidence, right) == [
        (pytest.approx(0.55), 0.5, 2),
        (pytest.approx(0.95), 0.75, 4),
    ]
    assert c.calibration_error(np.ones(3), np.ones(3, bool), np.ones(3)) == 0


def test_a_missing_class_is_undefined_and_leaves_the_interval_defined():
    scores, positive = np.array([0.1, 0.2, 0.9]), np.array([False, False, True])
    assert np.isnan(c.auroc(scores, positive, np.array([1, 1, 0])))
    (interval,) = bootstrap_counts(
        lambda counts: c.auroc(scores, positive, counts)[..., None], 3, BootstrapOptions(50, 0)
    )
    assert (interval.value, interval.low, interval.high, interval.n) == (1, 1, 1, 3)


def test_both_bootstraps_draw_alike():
    values, patients = np.random.default_rng(0).random(12), [i // 3 for i in range(12)]
    options = BootstrapOptions(200, 1, patients)
    (by_counts,) = bootstrap_counts(lambda counts: (counts @ values / counts.sum(-1))[..., None], 12, options)
    (by_sums,) = bootstrap_means(values[:, None], options)
    assert by_counts.low == pytest.approx(by_sums.low) and by_counts.high == pytest.approx(by_sums.high)
