"""Retrieval of the text that an image was generated from."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medunifier.image_scoring import encoding
from medunifier.image_scoring.encoding import EncodedImages, ImageEncoder, prompt_retrieval
from medunifier.metrics.bootstrap import BootstrapOptions

OPTIONS = BootstrapOptions(100, 0)
TEXTS = ["edema", "edema", "effusion", "clear", "clear"]


def encoded(directions: list[int]) -> EncodedImages:
    """Return images one of whose two query embeddings equals the embedding of the text of that number."""
    embeddings = np.zeros((len(directions), 2, 4), np.float32)
    embeddings[:, 0, 3] = 1  # no text has this direction
    embeddings[np.arange(len(directions)), 1, directions] = 1
    return EncodedImages(np.zeros((len(directions), 1), np.float32), embeddings)


def test_the_model_retrieves_the_texts_that_images_were_generated_from():
    """Each text counts once, however many images were generated from it."""
    embedded = []

    def embed_texts(texts):
        embedded.extend(texts)
        return np.eye(3, 4, dtype=np.float32)

    trained = SimpleNamespace(embed_texts=embed_texts)
    found = prompt_retrieval("prompt", encoded([0, 1, 1, 0, 2]), TEXTS, trained, OPTIONS)
    assert embedded == ["edema", "effusion", "clear"]
    name = "prompt_retrieval_recall_at_1"
    assert found[name] == pytest.approx(60) and found[f"{name}_n"] == 5
    assert found[f"{name}_ci_low"] < 60 < found[f"{name}_ci_high"]
    assert found[f"{name}_chance"] == pytest.approx(100 / 3)


def test_batches_of_any_size_are_encoded_by_the_encoder_s_own(monkeypatch):
    sizes = []

    class Encoder:
        def to(self, _):
            return self

        def __call__(self, pixels):
            sizes.append(len(pixels))
            value = pixels.mean((1, 2, 3))[:, None, None]
            return torch.cat([torch.zeros_like(value), value, value], 1)  # a class token, and a grid of two

    monkeypatch.setattr(encoding, "load_vision", lambda: Encoder())
    model = SimpleNamespace(encode_image=lambda tokens: (None, tokens[:, 1:]))
    trained = SimpleNamespace(device="cpu", model=model)
    images = np.arange(7, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    found = ImageEncoder(SimpleNamespace(choice={}), trained, 2).encode([images[:5], images[5:]])
    assert sizes == [2, 2, 1, 2]
    np.testing.assert_allclose(found.means[:, 0], np.arange(7) / 255, rtol=1e-6)
    np.testing.assert_allclose(found.embeddings[:, 1, 0], np.arange(7) / 255, rtol=1e-6)
