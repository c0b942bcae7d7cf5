"""What is seen in images without stored features, and which text the model finds for them."""

from types import SimpleNamespace

import numpy as np
import pytest

from medunifier.image_scoring.encoding import Seen, retrieval
from medunifier.metrics.bootstrap import BootstrapOptions

OPTIONS = BootstrapOptions(100, 0)
TEXTS = ["edema", "edema", "effusion", "clear", "clear"]


def seen(directions: list[int]) -> Seen:
    """Images one of whose two query embeddings points the way of the text of that number."""
    embeddings = np.zeros((len(directions), 2, 4), np.float32)
    embeddings[:, 0, 3] = 1  # the way of no text
    embeddings[np.arange(len(directions)), 1, directions] = 1
    return Seen(np.zeros((len(directions), 1), np.float32), embeddings)


def test_the_model_finds_the_texts_that_images_were_drawn_from():
    """Each text counts once, however many images were drawn from it."""
    asked = []

    def embed_texts(texts):
        asked.extend(texts)
        return np.eye(3, 4, dtype=np.float32)

    trained = SimpleNamespace(embed_texts=embed_texts)
    found = retrieval("prompt", seen([0, 1, 1, 0, 2]), TEXTS, trained, OPTIONS)
    assert asked == ["edema", "effusion", "clear"]
    name = "prompt_retrieval_recall_at_1"
    assert found[name] == pytest.approx(60) and found[f"{name}_n"] == 5
    assert found[f"{name}_ci_low"] < 60 < found[f"{name}_ci_high"]
    assert found[f"{name}_chance"] == pytest.approx(100 / 3)
