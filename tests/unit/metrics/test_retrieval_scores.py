"""Retrieval metrics of queries, against values by hand."""

import numpy as np
import pytest

from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.metrics.retrieval_scores import query_scores, retrieval_metrics


def test_equal_reports_are_one_pair():
    ranked = np.array([[1, 0, 2], [1, 0, 2], [2, 1, 0]])
    found = query_scores(ranked, np.arange(3), np.array([0, 0, 1]), [1])
    metrics = retrieval_metrics(*found, BootstrapOptions(10, 0, ["p", "q", "r"]))
    assert metrics["recall_at_1"] == 100
    assert metrics["map_at_1"] == pytest.approx(200 / 3)
    assert metrics["recall_at_1_chance"] == pytest.approx(100 * (2 / 3 + 2 / 3 + 1 / 3) / 3)
