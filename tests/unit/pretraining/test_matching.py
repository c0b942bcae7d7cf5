"""Image-text matching: which reports count as equal, and what its warnings say."""

import itertools

import pytest
import torch

from medunifier.metrics.matching import matching_warning
from medunifier.pretraining.matching import equal_texts
from medunifier.report.sections import training_section
from tests.unit.model.test_distributed import case


def old_hash(ids):
    """The hash that was used before: weights that grow evenly with the position."""
    odd = torch.arange(1, ids.shape[1] + 1).mul(0x9E3779B97F4A7C1).bitwise_or(1)
    return (ids * odd).sum(1)


def test_two_words_exchanged_make_another_report():
    """`left ... right ... right ... left` against `right ... left ... left ... right`: other reports, the same words."""
    left, right, rest = 7, 9, 5
    one = [rest, left, rest, right, rest, rest, right, rest, left, rest]
    other = [rest, right, rest, left, rest, rest, left, rest, right, rest]
    ids = torch.tensor([one, other, one])
    assert len(set(old_hash(ids).tolist())) == 1, "the case that collided"
    groups = equal_texts(ids).tolist()
    assert groups[0] == groups[2] != groups[1]


def test_all_orders_of_words_are_told_apart_and_padding_does_not_count():
    texts = torch.tensor(list(itertools.product((4, 5, 6), repeat=5)))
    assert len(set(equal_texts(texts).tolist())) == 3**5
    model, batch = case()
    batch["attention_mask"][:] = (torch.arange(9) < 5).long()
    batch["input_ids"][:] = batch["input_ids"][:1]
    batch["input_ids"][:, 5:] = torch.randint(6, 30, (6, 4))  # what stands at padding
    parts = model(**batch, weights={"itm": 1.0}, generator=torch.Generator()).parts
    assert parts["itm_negatives"] == 0


def values(**changes):
    return {"itm": 0.3, "itm_accuracy": 0.9, "itm_negatives": 2 / 3} | changes


def test_a_matching_that_has_learned_nothing_is_told():
    assert matching_warning(values()) is None
    found = matching_warning(values(itm=0.64, itm_accuracy=2 / 3))
    assert found is not None and "always the same answer" in found and "0.667" in found and "0.637" in found
    # with few negatives the constant answer is `match`: 70 % right
    assert matching_warning(values(itm_accuracy=0.8, itm_negatives=0.3)) is None
    assert "0.700" in (matching_warning(values(itm_accuracy=0.7, itm_negatives=0.3)) or "")


def test_a_matching_without_negatives_is_told_however_good_its_loss_looks():
    found = matching_warning(values(itm=0.00004, itm_accuracy=1.0, itm_negatives=0.0))
    assert found is not None and "had no negatives" in found and "equal_reports" in found


def test_the_page_warns_beside_the_curves():
    recipe = {"steps": 2, "batch_size": 4, "dataset": "d", "learning_rate": 0.1}
    curve = [
        {"step": 0, "split": "validate"} | values(),
        {"step": 2, "split": "validate"} | values(itm_accuracy=0.6667),
    ]
    found = training_section("full", {"itm": 1.0}, {}, curve, recipe)["summary"]
    assert "always the same answer" in found
    assert "WARNING" not in training_section("full", {"itm": 1.0}, {}, curve[:1], recipe)["summary"]


@pytest.mark.parametrize("equal", [0, 3])
def test_the_share_of_negatives_is_counted(equal):
    model, batch = case()
    for name in ("input_ids", "attention_mask"):
        batch[name][:equal] = batch[name][:1]
    parts = model(**batch, weights={"itm": 1.0}, generator=torch.Generator()).parts
    assert parts["itm_negatives"] == pytest.approx(2 / 3)  # each still has another report in the batch
