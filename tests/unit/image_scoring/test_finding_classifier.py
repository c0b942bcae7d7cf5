"""The finding classifier: accuracy, independence of prevalence, and findings that it leaves out."""

import numpy as np
import pytest

from medunifier.image_scoring.finding_classifier import (
    MIN_IMAGES_PER_CLASS,
    chance_level,
    fit_finding_classifier,
    standardize,
)


def make(n: int, seed: int, shares=(0.1, 0.5)) -> tuple[np.ndarray, np.ndarray]:
    """Return images of 36 values with two findings, each a bright spot of its own, and their labels."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 2)) < shares).astype(int)
    images = 0.5 + 0.05 * rng.normal(size=(n, 36))
    images[:, 3] += 0.15 * labels[:, 0]
    images[:, 30] += 0.15 * labels[:, 1]
    return standardize(images), labels


def test_it_finds_what_new_images_show():
    classifier = fit_finding_classifier(*make(600, 0), ("rare", "common"))
    inputs, labels = make(400, 1)
    evidence = classifier.evidence(inputs)
    assert classifier.names == ("rare", "common") and evidence.shape == (400, 2)
    for column in (0, 1):
        present, absent = (evidence[labels[:, column] == value, column] for value in (1, 0))
        assert (present[:, None] > absent).mean() > 0.95


def test_evidence_does_not_depend_on_prevalence():
    """With equally strong signs, the answer for an image with one finding is right, rare or common."""
    classifier = fit_finding_classifier(*make(4000, 0), ("rare", "common"))
    inputs, labels = make(4000, 1)
    single = labels.sum(1) == 1
    answers = classifier.evidence(inputs)[single].argmax(1)
    right = answers == labels[single].argmax(1)
    assert [right[labels[single][:, c] == 1].mean() for c in (0, 1)] == pytest.approx([0.97, 0.97], abs=0.03)


def test_exposure_has_no_influence():
    images = np.random.default_rng(0).random((4, 36))
    assert standardize(0.5 * images + 0.2) == pytest.approx(standardize(images), abs=1e-4)


def test_unknown_and_scarce_findings_are_left_out():
    inputs, labels = make(300, 0)
    labels[:, 0] = -1
    labels[: MIN_IMAGES_PER_CLASS - 1, 0], labels[20:200, 0] = 1, 0
    classifier = fit_finding_classifier(inputs, labels, ("scarce", "common"))
    assert classifier.names == ("common",) and classifier.columns(["common"]) == [0]
    assert fit_finding_classifier(inputs, -np.ones_like(labels), ("a", "b")).evidence(inputs).shape == (
        300,
        0,
    )
    partly_known = labels.copy()
    partly_known[150:, 1] = -1  # unknown labels do not train
    half = fit_finding_classifier(inputs[:150], labels[:150], ("scarce", "common"))
    found = fit_finding_classifier(inputs, partly_known, ("scarce", "common"))
    agreement = np.corrcoef(found.evidence(inputs)[:, -1], half.evidence(inputs)[:, -1])[0, 1]
    assert agreement > 0.99


def test_chance_level():
    assert chance_level(np.array([0, 1, 2, 3]), np.array([0, 0, 0, 0])) == 0.25
    assert chance_level(np.array([0, 0, 0, 1]), np.array([0, 1, 0, 0])) == pytest.approx(0.75 * 0.75 + 0.0625)
