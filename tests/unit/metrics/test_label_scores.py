"""Metrics of labels that do not exclude each other, against scikit-learn over the items for which a label is known."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score, roc_curve

from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.metrics.classification_scores import mean_of_defined, score_labels

LABELS = ("edema", "mass", "hernia")


def data(n, seed, rare=0.3):
    """Scores [n, 3] and targets [n, 3] of labels that overlap; a fifth of the values are ignored (-1)."""
    rng = np.random.default_rng(seed)
    target = (rng.random((n, 3)) < (0.5, 0.3, rare)).astype(np.int64)
    scores = np.clip(0.3 * target + rng.random((n, 3)), 0, 1.3) / 1.3
    return scores, np.where(rng.random((n, 3)) < 0.2, -1, target)


@pytest.fixture
def found():
    scores, target = data(90, 0)
    held, held_target = data(70, 1)
    return score_labels([scores], target, [held], held_target, LABELS), scores, target, held, held_target


def test_each_label_is_a_binary_task_over_the_items_that_have_it(found):
    result, scores, target, *_ = found
    values = result.intervals(BootstrapOptions(5, 0))
    assert {"macro_auroc", "macro_auprc", "macro_f1", "ece"} < set(values)
    for i, label in enumerate(LABELS):
        known = target[:, i] >= 0
        y, s = target[known, i], scores[known, i]
        called = s >= result.thresholds[f"threshold_{label}"]
        expected = {
            "auroc": roc_auc_score(y, s),
            "auprc": average_precision_score(y, s),
            "f1": f1_score(y, called),
            "sensitivity": recall_score(y, called),
            "specificity": recall_score(y, called, pos_label=0),
        }
        assert {kind: values[f"{kind}_{label}"].value for kind in expected} == pytest.approx(expected)
        sizes = [values[f"{kind}_{label}"].n for kind in expected]
        assert sizes == [known.sum()] * 3 + [y.sum(), (1 - y).sum()]
        assert result.chance[f"auprc_{label}"] == pytest.approx(y.mean())
    for kind in ("auroc", "auprc", "f1"):
        mean = np.mean([values[f"{kind}_{label}"].value for label in LABELS])
        assert values[f"macro_{kind}"].value == pytest.approx(mean) and values[f"macro_{kind}"].n == 90


def test_thresholds_are_chosen_on_validation(found):
    result, _, _, held, held_target = found
    for i, label in enumerate(LABELS):
        known = held_target[:, i] >= 0
        false, true, _ = roc_curve(held_target[known, i], held[known, i], drop_intermediate=False)
        called = held[known, i] >= result.thresholds[f"threshold_{label}"]
        youden = (
            recall_score(held_target[known, i], called)
            + recall_score(held_target[known, i], called, pos_label=0)
            - 1
        )
        assert youden == pytest.approx((true - false).max())


def test_draws_are_scored_as_if_their_items_were_repeated(found):
    result, scores, target, *_ = found
    counts = np.random.default_rng(3).multinomial(90, np.full(90, 1 / 90), size=8)
    drawn = result.score(counts)
    for number, repeats in enumerate(counts):
        aurocs = [
            roc_auc_score(np.repeat(target[k, i], repeats[k]), np.repeat(scores[k, i], repeats[k]))
            for i in range(3)
            for k in [target[:, i] >= 0]
        ]
        row = dict(zip(result.names, drawn[number], strict=True))
        assert [row[f"auroc_{label}"] for label in LABELS] == pytest.approx(aurocs)
        assert row["macro_auroc"] == pytest.approx(np.mean(aurocs))


def test_a_draw_without_a_positive_of_a_label_counts_for_the_others():
    scores, target = data(40, 5)
    target[:, 2] = 0
    target[7, 2] = 1
    result = score_labels([scores], target, [scores], target, LABELS)
    counts = np.ones((1, 40))
    counts[0, 7] = 0
    row = dict(zip(result.names, result.score(counts)[0], strict=True))
    assert np.isnan(row["auroc_hernia"])
    assert row["macro_auroc"] == pytest.approx((row["auroc_edema"] + row["auroc_mass"]) / 2)
    found = result.intervals(BootstrapOptions(200, 0))
    assert np.isfinite([found["auroc_hernia"].low, found["macro_auroc"].high]).all()


def test_intervals_draw_whole_patients(found):
    """Every patient's images twice: by image the interval would be narrower by the root of 2."""
    _, scores, target, held, held_target = found
    twice = score_labels([scores.repeat(2, 0)], target.repeat(2, 0), [held], held_target, LABELS)
    once = score_labels([scores], target, [held], held_target, LABELS)
    patients = np.arange(90).repeat(2).tolist()
    by_patient = twice.intervals(BootstrapOptions(300, 0, patients))
    for name, interval in once.intervals(BootstrapOptions(300, 0)).items():
        found = by_patient[name]
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high)), name


def test_seeds_are_averaged():
    (first, target), (second, _) = data(50, 0), data(50, 9)
    result = score_labels([first, second], target, [first, second], target, LABELS)
    alone = [score_labels([s], target, [s], target, LABELS) for s in (first, second)]
    values = [dict(zip(r.names, r.score(np.ones(50)), strict=True)) for r in (result, *alone)]
    for name in ("macro_auroc", "auroc_mass", "f1_hernia"):
        assert values[0][name] == pytest.approx((values[1][name] + values[2][name]) / 2)
        spread = np.std([v[name] for v in values[1:]], ddof=1)
        assert result.spread()[name] == pytest.approx(spread)


def test_mean_of_what_is_defined():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 2.0, np.nan]])
    assert mean_of_defined(values)[:2].tolist() == [2, 2] and np.isnan(mean_of_defined(values)[2])
