"""Paired comparisons: what the difference and its interval are, and when there is none."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stages.errors import InputError
from stages.params import load_params
from stages.report.differences import compare, differences, write_differences
from stages.storage.items import item_rows

REPO = Path(__file__).resolve().parents[2]
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
    params = dataclasses.replace(params, encoders=())
    assert differences(params, lambda stage: pytest.fail("not read")) == []
