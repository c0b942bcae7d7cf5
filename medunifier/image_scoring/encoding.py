"""What the frozen ViT and the trained model see in images that have no stored features."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from medunifier.evaluation.trained_model import TrainedModel
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means
from medunifier.metrics.retrieval import chance_recall, rank_texts
from medunifier.runtime.params import Vision


@dataclass(frozen=True)
class Seen:
    """What there is to see in n images."""

    means: np.ndarray  # the ViT's patch tokens, averaged, float32 [n, width]
    embeddings: np.ndarray  # ITC embeddings by the trained model, float32 [n, queries, projection]


def looker(vision: Vision, trained: TrainedModel) -> Callable[[Iterable[np.ndarray]], Seen]:
    """A function from uint8 image batches [k, H, W] to what is seen in them."""
    import torch

    from medunifier.vision.frozen_encoder import load_vision

    vit = load_vision(vision.source, vision.revision, vision.skip_last_blocks).to(trained.device)

    def look(images: Iterable[np.ndarray]) -> Seen:
        means, embeddings = [], []
        for batch in images:
            grey = torch.from_numpy(batch).to(trained.device).float()[:, None] / 255
            with torch.inference_mode():
                tokens = vit(grey.expand(-1, 3, -1, -1)).float()  # (k, 1 + patches, width)
                means.append(tokens[:, 1:].mean(1).cpu().numpy())
                embeddings.append(trained.model.encode_image(tokens)[1].float().cpu().numpy())
        return Seen(np.concatenate(means), np.concatenate(embeddings))

    return look


def retrieval(
    name: str, seen: Seen, texts: list[str], trained: TrainedModel, options: BootstrapOptions
) -> dict[str, float | int]:
    """`NAME_retrieval_recall_at_1`, in percent: how often the model itself finds the text that an image was drawn from
    among all the texts here, with `_chance`.

    Args:
        texts: what each image was drawn from, n.
    """
    distinct = list(dict.fromkeys(texts))
    best, _ = rank_texts(seen.embeddings, trained.embed_texts(distinct), 1)
    hits = np.array([distinct[row] == text for row, text in zip(best[:, 0], texts, strict=True)])
    (interval,) = bootstrap_means(hits[:, None], options)
    flat = interval.flat(f"{name}_retrieval_recall_at_1", scale=100)
    return flat | {f"{name}_retrieval_recall_at_1_chance": 100 * chance_recall(1, len(distinct), 1)}
