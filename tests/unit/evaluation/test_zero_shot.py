"""Similarity of images to classes, against values by hand."""

import numpy as np
import pytest

from medunifier.evaluation.zero_shot import class_scores, shares


def test_aggregation_by_hand():
    class Texts:
        def embed_texts(self, texts):
            return np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)[: len(texts)]

    images = np.array([[[0.6, 0.8], [1.0, 0.0]]], np.float32)  # one image, two queries
    for aggregation, expected in (("max", 1.0), ("mean", 0.9), ("ensemble", 1.4 / 2**0.5)):
        scores, best = class_scores(Texts(), images, [["a", "b"]], aggregation)
        assert scores[0, 0] == pytest.approx(expected, abs=1e-6) and best[0, 0] == 0


def test_shares_sum_to_one_and_keep_the_order():
    scores = np.array([[0.2, 0.5, 0.1], [-1.0, -1.0, -1.0]])
    found = shares(scores)
    assert found.sum(1) == pytest.approx(1) and (found[0].argsort() == scores[0].argsort()).all()
    assert found[0, 1] / found[0, 0] == pytest.approx(np.exp(0.3 / 0.07))
    assert found[1] == pytest.approx(1 / 3)
