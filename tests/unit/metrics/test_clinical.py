"""Mentioned findings against labels: F1 by scikit-learn; optional scorers run where installed and are named where not."""

import sys
import types

import numpy as np
import pytest
from sklearn.metrics import f1_score

from medunifier.metrics.clinical import finding_counts, finding_f1, optional_scores


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


def test_scorers_that_are_not_installed_are_named(monkeypatch):
    for name in ("f1chexbert", "radgraph", "RadEval"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError
    scores, missing = optional_scores(["a"], ["b"])
    assert scores == {} and len(missing) == 3
    assert "CheXbert F1 is left out: its package is not installed (pip install f1chexbert" in missing[0]


def test_scorers_run_where_installed_and_name_missing_weights(monkeypatch):
    class F1RadGraph:
        def __init__(self, reward_level):
            assert reward_level == "all"

        def __call__(self, hyps, refs):
            assert (hyps, refs) == (["b"], ["a"])
            return (0.3, 0.2, 0.1), None, None, None

    class F1CheXbert:
        def __init__(self):
            raise OSError("chexbert.pth: no such file")

    monkeypatch.setitem(sys.modules, "radgraph", types.SimpleNamespace(F1RadGraph=F1RadGraph))
    monkeypatch.setitem(sys.modules, "f1chexbert", types.SimpleNamespace(F1CheXbert=F1CheXbert))
    monkeypatch.setitem(sys.modules, "RadEval", None)
    scores, missing = optional_scores(["a"], ["b"])
    assert scores == {"radgraph_simple": 0.3, "radgraph_partial": 0.2, "radgraph_complete": 0.1}
    assert "CheXbert F1 is left out: chexbert.pth: no such file" in missing[0]
