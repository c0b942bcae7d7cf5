"""Classification metrics against scikit-learn, each over its own number of items."""

import numpy as np
import pytest
from sklearn.metrics import recall_score

from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_counts
from medunifier.metrics.classification import calibration_error
from medunifier.metrics.classification_scores import score_binary, score_exclusive

OPTIONS = BootstrapOptions(20, 0)


def test_binary_metrics_count_their_items():
    rng = np.random.default_rng(0)
    scores, target = rng.random(30), np.arange(30) % 5 // 3  # 12 positives, 18 negatives
    held, held_target = rng.random(20), np.arange(20) % 2
    found_scores = score_binary(
        [np.stack([1 - scores, scores], 1)], target, [np.stack([1 - held, held], 1)], held_target
    )
    found = found_scores.intervals(OPTIONS)
    called = scores >= found_scores.thresholds["threshold"]
    assert found["sensitivity"].value == pytest.approx(recall_score(target, called))
    assert found["specificity"].value == pytest.approx(recall_score(target, called, pos_label=0))
    assert (found["sensitivity"].n, found["specificity"].n, found["auroc"].n) == (12, 18, 30)


def test_metrics_of_a_class_count_their_items():
    target = np.array([0] * 7 + [1] * 2 + [2] * 4)
    scores = np.random.default_rng(1).dirichlet(np.ones(3), 13)
    found = score_exclusive([scores], target, ["a", "b", "c"]).intervals(OPTIONS)
    recalls = recall_score(target, scores.argmax(1), average=None)
    for name, recall, n in zip("abc", recalls, (7, 2, 4), strict=True):
        assert found[f"sensitivity_{name}"].value == pytest.approx(recall)
        assert (found[f"sensitivity_{name}"].n, found[f"specificity_{name}"].n) == (n, 13 - n)
    assert found["accuracy"].n == found["macro_auroc"].n == 13


@pytest.mark.slow
def test_the_interval_of_the_calibration_error_covers_the_truth_where_percentiles_do_not():
    """Scores that are too sure of themselves, whose calibration error is known from very many of them."""
    rng = np.random.default_rng(0)

    def draw(n):
        scores = rng.normal(scale=1.5, size=n)
        target = rng.random(n) < 1 / (1 + np.exp(-0.7 * scores))
        return 1 / (1 + np.exp(-scores)), target.astype(int)

    scores, target = draw(400_000)
    truth = calibration_error(scores, target == 1, np.ones(len(scores)))
    mirrored = percentile = 0
    for _ in range(100):
        scores, target = draw(300)
        both = np.stack([1 - scores, scores], 1)
        found_scores = score_binary([both], target, [both], target)
        options = BootstrapOptions(200, 0)
        found = found_scores.intervals(options)["ece"]
        plain = bootstrap_counts(found_scores.score, found_scores.n, options)[found_scores.names.index("ece")]
        mirrored += found.low <= truth <= found.high
        percentile += plain.low <= truth <= plain.high
    assert mirrored >= 80
    assert percentile < 50
