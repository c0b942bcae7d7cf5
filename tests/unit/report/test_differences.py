"""Paired comparisons: what the difference and its interval are, and when there is none."""

import numpy as np
import polars as pl
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from sklearn.metrics import roc_auc_score

from medunifier.metrics.meteor import meteor
from medunifier.metrics.text import bleu, bleu_statistics
from medunifier.report.differences import compare, differences, write_differences
from medunifier.results.item_scores import item_rows
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import load_params
from tests.support.paths import REPO

IDS, PATIENTS = [f"i{n}" for n in range(40)], [f"p{n // 2}" for n in range(40)]


def test_a_constant_lead_has_no_width_though_both_vary():
    values = np.random.default_rng(0).random(40)
    ours, theirs = (item_rows("rouge_l", IDS, PATIENTS, v) for v in (values + 0.1, values))
    ((metric, (difference, low, high, n)),) = compare(ours, theirs, "x", 0)
    assert (metric, n) == ("rouge_l", 40)
    assert (difference, low, high) == pytest.approx((10, 10, 10))


def test_auroc_is_compared_as_such_and_order_does_not_matter():
    rng = np.random.default_rng(1)
    positive = np.arange(40) % 2 == 0
    scores = [rng.random(40) + lift * positive for lift in (0.8, 0.1)]
    ours, theirs = (item_rows("auroc", IDS, PATIENTS, s, positive=positive) for s in scores)
    ((_, (difference, low, high, _)),) = compare(
        ours, theirs.sample(fraction=1, shuffle=True, seed=2), "x", 0
    )
    assert difference == pytest.approx(
        100 * (roc_auc_score(positive, scores[0]) - roc_auc_score(positive, scores[1]))
    )
    assert 0 < low < difference < high


def test_the_mean_over_labels_is_compared_over_the_items_that_each_has():
    rng = np.random.default_rng(2)
    target = rng.integers(0, 2, (40, 3))
    known = [np.flatnonzero(rng.random(40) < share) for share in (1.0, 0.8, 0.6)]
    scores = [rng.random((40, 3)) + lift * target for lift in (0.8, 0.1)]

    def rows(scores):
        return pl.concat(
            item_rows(
                f"auroc_{label}",
                [IDS[k] for k in known[i]],
                [PATIENTS[k] for k in known[i]],
                scores[known[i], i],
                positive=target[known[i], i] == 1,
            )
            for i, label in enumerate("abc")
        )

    found = dict(compare(rows(scores[0]), rows(scores[1]), "x", 0))
    assert list(found) == ["auroc_a", "auroc_b", "auroc_c", "macro_auroc"]

    def by_pairs(positive, scores):
        """AUROC by its definition: how often a positive item has the higher score."""
        return (scores[positive == 1][:, None] > scores[positive == 0]).mean()

    def truth(chosen, area=by_pairs):
        parts = [chosen[np.isin(chosen, rows)] for rows in known]
        return 100 * np.mean([
            area(target[k, i], scores[0][k, i]) - area(target[k, i], scores[1][k, i]) for i, k in enumerate(parts)
        ])  # fmt: skip

    assert truth(np.arange(40)) == pytest.approx(truth(np.arange(40), roc_auc_score))
    difference, *ends, n = found["macro_auroc"]
    assert (difference, n) == (pytest.approx(truth(np.arange(40))), 40)
    low, high = slow_interval(truth, 40, PATIENTS)
    assert ends == pytest.approx((low, high), abs=0.15 * (high - low))


def slow_interval(score, n: int, clusters: list[str]) -> tuple[float, float]:
    """95 % of `score(chosen items)` over draws of whole clusters."""
    rng = np.random.default_rng(7)
    members = [np.flatnonzero(np.array(clusters) == name) for name in dict.fromkeys(clusters)]
    draws = [
        np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))]) for _ in range(2000)
    ]
    return tuple(np.quantile([score(chosen) for chosen in draws], [0.025, 0.975]))


@pytest.mark.slow
def test_corpus_scores_are_compared_by_sums_of_their_statistics():
    """BLEU-2 of a corpus is no mean of its items' BLEU."""
    rng = np.random.default_rng(3)
    words = [" ".join(rng.choice(list("abc"), rng.integers(3, 9))) for _ in range(120)]
    references, texts = [[text] for text in words[:40]], (words[40:80], words[80:])
    statistics = [bleu_statistics(references, part) for part in texts]
    ours, theirs = (item_rows("bleu_2", IDS, PATIENTS, bleu(s)[:, 1], statistics=s) for s in statistics)
    ((_, (difference, *ends, _)),) = compare(ours, theirs, "x", 0)

    def truth(chosen: np.ndarray) -> float:
        scores = [
            Bleu(4).compute_score(
                {k: references[i] for k, i in enumerate(chosen)},
                {k: [part[i]] for k, i in enumerate(chosen)},
                verbose=0,
            )[0][1]
            for part in texts
        ]
        return 100 * (scores[0] - scores[1])

    assert difference == pytest.approx(truth(np.arange(40)), abs=1e-4)
    low, high = slow_interval(truth, 40, PATIENTS)
    assert ends == pytest.approx((low, high), abs=0.1 * (high - low))


def test_meteor_is_compared_by_its_statistics():
    rng = np.random.default_rng(4)
    statistics = [rng.integers(1, 9, (40, 23)).astype(float) for _ in range(2)]
    ours, theirs = (item_rows("meteor", IDS, PATIENTS, np.zeros(40), statistics=s) for s in statistics)
    ((_, (difference, *_)),) = compare(ours, theirs, "x", 0)
    assert difference == pytest.approx(100 * (meteor(statistics[0].sum(0)) - meteor(statistics[1].sum(0))))


def test_what_the_reference_lacks_is_left_out():
    both = item_rows("accuracy", IDS, PATIENTS, np.ones(40))
    matched = item_rows("itm_accuracy", IDS, PATIENTS, np.ones(40))
    assert [metric for metric, _ in compare(pl.concat([both, matched]), both, "x", 0)] == ["accuracy"]
    assert [metric for metric, _ in compare(both, pl.concat([both, matched]), "x", 0)] == ["accuracy"]


def test_other_items_are_refused():
    ours = item_rows("accuracy", IDS, PATIENTS, np.ones(40))
    theirs = item_rows("accuracy", IDS[:-1], PATIENTS[:-1], np.ones(39))
    with pytest.raises(InputError, match="x: accuracy was not measured on the reference's items"):
        list(compare(ours, theirs, "x", 0))


def test_every_variant_is_held_against_the_full_model(tmp_path):
    params = load_params(REPO / "workflow/presets/ablation.yaml")
    found = differences(params, lambda stage: item_rows("accuracy", IDS, PATIENTS, np.ones(40)))
    assert {d.reference for d in found} == {"full"}
    assert {d.model for d in found if d.evaluation == "retrieve phantom"} == {*params.trained.itc} - {"full"}
    assert {d.evaluation for d in found} >= {"finetune phantom-rsna 100%", "zero_shot phantom"}
    write_differences(found, tmp_path / "differences.csv")
    assert (tmp_path / "differences.csv").read_text().count("\n") == len(found) + 1


def test_one_model_has_nothing_to_be_compared_with():
    params = load_params(REPO / "workflow/presets/demo.yaml")
    params = params.replace(encoders=())
    assert differences(params, lambda stage: pytest.fail("not read")) == []
