"""Mentioned findings against labels: F1 by scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from medunifier.metrics.clinical import finding_counts, finding_f1, label_f1


def test_f1_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    mentioned, truth = rng.random((40, 4)) < 0.4, (rng.random((40, 4)) < 0.3).astype(float)
    micro, macro = finding_f1(finding_counts(mentioned, truth).sum(0))
    assert micro == pytest.approx(f1_score(truth.astype(int), mentioned.astype(int), average="micro"))
    assert macro == pytest.approx(f1_score(truth.astype(int), mentioned.astype(int), average="macro"))


def test_uncertain_labels_and_absent_findings_count_neither_way():
    mentioned = np.array([[True, False], [True, False]])
    truth = np.array([[1.0, 0.0], [np.nan, 0.0]])
    assert finding_f1(finding_counts(mentioned, truth).sum(0)).tolist() == [1.0, 1.0]


def test_macro_f1_over_all_findings_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    mentioned, truth = rng.random((40, 5)) < 0.4, (rng.random((40, 5)) < 0.3).astype(float)
    mentioned[:, 2], truth[:, 2] = False, 0.0  # neither present nor mentioned: counts as 0
    sums = finding_counts(mentioned, truth).sum(0)
    for kind, value in zip(("micro", "macro"), label_f1(sums), strict=True):
        expected = f1_score(truth.astype(int), mentioned.astype(int), average=kind, zero_division=0)
        assert value == pytest.approx(expected)
    assert finding_f1(sums)[1] == pytest.approx(label_f1(sums)[1] * 5 / 4)
