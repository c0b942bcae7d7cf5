"""Features and embeddings of images that have no stored features, such as generated ones."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from medunifier.evaluation.trained_model import TrainedModel
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means
from medunifier.metrics.retrieval import chance_recall, rank_texts
from medunifier.runtime.params import Vision
from medunifier.vision.frozen_encoder import load_vision


@dataclass(frozen=True)
class EncodedImages:
    """Features and embeddings of n images.

    Attributes:
        means: mean of the frozen encoder's grid of features, float32 [n, width].
        embeddings: ITC embeddings by the trained model, float32 [n, queries, projection].
    """

    means: np.ndarray
    embeddings: np.ndarray


class ImageEncoder:
    """The frozen encoder and the trained model, applied to pixels.

    Args:
        vision: which encoder.
        trained: the model; the encoder moves to its device.
        batch_size: images that the encoder takes at a time.
    """

    def __init__(self, vision: Vision, trained: TrainedModel, batch_size: int):
        self.trained = trained
        self.batch_size = batch_size
        self.encoder = load_vision(**vision.choice).to(trained.device)

    def encode(self, images: Iterable[np.ndarray]) -> EncodedImages:
        """Encode images that come in uint8 batches [k, H, W], of any size."""
        means, embeddings = [], []
        for part in (part for batch in images for part in torch.from_numpy(batch).split(self.batch_size)):
            grey = part.to(self.trained.device).float()[:, None] / 255
            with torch.inference_mode():
                tokens = self.encoder(grey.expand(-1, 3, -1, -1)).float()  # (k, 1 + patches, width)
                means.append(tokens[:, 1:].mean(1).cpu().numpy())
                embeddings.append(self.trained.model.encode_image(tokens)[1].float().cpu().numpy())
        return EncodedImages(np.concatenate(means), np.concatenate(embeddings))


def prompt_retrieval(
    name: str, encoded: EncodedImages, texts: list[str], trained: TrainedModel, options: BootstrapOptions
) -> dict[str, float | int]:
    """Measure how often the model itself retrieves the text that an image was generated from.

    Args:
        name: first part of the metrics' names.
        encoded: the generated images, n.
        texts: the text that each image was generated from, n. Candidates are the distinct ones.
        trained: the model.
        options: of the bootstrap over images.

    Returns:
        `NAME_retrieval_recall_at_1` in percent with its confidence interval (95 %), and its `_chance`.
    """
    distinct = list(dict.fromkeys(texts))
    best, _ = rank_texts(encoded.embeddings, trained.embed_texts(distinct), 1)
    hits = np.array([distinct[row] == text for row, text in zip(best[:, 0], texts, strict=True)])
    (interval,) = bootstrap_means(hits[:, None], options)
    flat = interval.flat(f"{name}_retrieval_recall_at_1", scale=100)
    return flat | {f"{name}_retrieval_recall_at_1_chance": 100 * chance_recall(1, len(distinct), 1)}
