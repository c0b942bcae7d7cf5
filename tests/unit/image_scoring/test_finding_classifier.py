"""The judge: finds what is there, is not swayed by how common it is, and leaves out what it cannot learn."""

import numpy as np
import pytest

from medunifier.image_scoring.finding_classifier import FEWEST, chance, judge_views, train_judge


def make(n: int, seed: int, shares=(0.1, 0.5)) -> tuple[np.ndarray, np.ndarray]:
    """Images of 36 values with two findings, each a bright spot of its own."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 2)) < shares).astype(int)
    images = 0.5 + 0.05 * rng.normal(size=(n, 36))
    images[:, 3] += 0.15 * truth[:, 0]
    images[:, 30] += 0.15 * truth[:, 1]
    return judge_views(images), truth


def test_it_finds_what_is_there_in_new_images():
    judge = train_judge(*make(600, 0), ("rare", "common"))
    views, truth = make(400, 1)
    evidence = judge.evidence(views)
    assert judge.names == ("rare", "common") and evidence.shape == (400, 2)
    for column in (0, 1):
        present, absent = (evidence[truth[:, column] == value, column] for value in (1, 0))
        assert (present[:, None] > absent).mean() > 0.95


def test_evidence_does_not_count_how_common_a_finding_is():
    """With equally strong signs, an image that shows one finding is given to it, rare or common."""
    judge = train_judge(*make(4000, 0), ("rare", "common"))
    views, truth = make(4000, 1)
    single = truth.sum(1) == 1
    answered = judge.evidence(views)[single].argmax(1)
    right = answered == truth[single].argmax(1)
    assert [right[truth[single][:, c] == 1].mean() for c in (0, 1)] == pytest.approx([0.97, 0.97], abs=0.03)


def test_exposure_does_not_count():
    images = np.random.default_rng(0).random((4, 36))
    assert judge_views(0.5 * images + 0.2) == pytest.approx(judge_views(images), abs=1e-4)


def test_unknown_and_scarce_findings_are_left_out():
    views, truth = make(300, 0)
    truth[:, 0] = -1
    truth[: FEWEST - 1, 0], truth[20:200, 0] = 1, 0
    judge = train_judge(views, truth, ("scarce", "common"))
    assert judge.names == ("common",) and judge.columns(["common"]) == [0]
    assert train_judge(views, -np.ones_like(truth), ("a", "b")).evidence(views).shape == (300, 0)
    blind = truth.copy()
    blind[150:, 1] = -1  # what is unknown does not train
    half = train_judge(views[:150], truth[:150], ("scarce", "common"))
    found = train_judge(views, blind, ("scarce", "common"))
    agreement = np.corrcoef(found.evidence(views)[:, -1], half.evidence(views)[:, -1])[0, 1]
    assert agreement > 0.99


def test_chance():
    assert chance(np.array([0, 1, 2, 3]), np.array([0, 0, 0, 0])) == 0.25
    assert chance(np.array([0, 0, 0, 1]), np.array([0, 1, 0, 0])) == pytest.approx(0.75 * 0.75 + 0.0625)
