"""Images in batches, from a store or from an array."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from medunifier.evaluation.items import BATCH, batches
from medunifier.image_scoring.similarity import thumbnails
from medunifier.storage.image_shards import ImageStore


@dataclass(frozen=True)
class StoredImages:
    """Images of a store in uint8 batches [k, H, W]; can be iterated several times.

    Attributes:
        store: the images.
        ids: which of them; None: all.
    """

    store: ImageStore
    ids: pl.Series | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Read the images batch by batch."""
        rows = np.arange(len(self.store)) if self.ids is None else self.store.rows(self.ids.to_list())
        for part in batches(len(rows), BATCH, "read images"):
            yield self.store.read(rows[part])

    def read(self) -> np.ndarray:
        """Return all images, uint8 [n, H, W]."""
        return np.concatenate([*self])

    def thumbnails(self) -> np.ndarray:
        """Return the thumbnails of all images, float32 [n, D]."""
        return np.concatenate([thumbnails(batch) for batch in self])


def in_batches(images: np.ndarray) -> list[np.ndarray]:
    """Split images [n, H, W] into batches [k, H, W]."""
    return [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
