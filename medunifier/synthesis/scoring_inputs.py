"""What score_images compares: the model, real images with codes, and the generated sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from medunifier.evaluation.items import seeded_rows
from medunifier.evaluation.loading import load_trained
from medunifier.evaluation.trained_model import TrainedModel
from medunifier.image_scoring.image_batches import StoredImages
from medunifier.image_scoring.reconstruction import decode_images
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Params
from medunifier.storage.image_shards import TargetImages
from medunifier.synthesis.codes import read_coded_images
from medunifier.synthesis.generated_sets import GeneratedSets, read_generated_sets

SPLITS = ("train", "validate", "test")


@dataclass(frozen=True)
class ScoringInputs:
    """The model and the images that score_images compares.

    Attributes:
        trained: the model.
        store: pixels of the real images.
        train: training images with codes, as from `read_coded_images`.
        validate: validation images.
        test: all test images.
        generated: the sets of generate_images.
        reconstructed: split whose reconstructions Table 5 compares, `train` or `test`.
        max_images: limit on the images of a set; None: no limit.
        seed: of the choice of images.
    """

    trained: TrainedModel
    store: TargetImages
    train: pl.DataFrame
    validate: pl.DataFrame
    test: pl.DataFrame
    generated: GeneratedSets
    reconstructed: Literal["train", "test"]
    max_images: int | None
    seed: int

    def choose(self, table: pl.DataFrame, size: int | None) -> pl.DataFrame:
        """Return `size` rows of a table, chosen by the seed, in the table's order; None: all rows."""
        return table[seeded_rows(len(table), size, self.seed)]

    def reconstructions(self, size: int, of_test: np.ndarray) -> np.ndarray:
        """Return the reconstructions of Table 5, uint8 [size, H, W].

        Args:
            size: how many, at most as many as there are.
            of_test: reconstructed test images, uint8 [n, H, W], of which they are with `reconstructed: test`.
        """
        if self.reconstructed == "train":
            return decode_images(self.trained, self.choose(self.train, size))
        return of_test[seeded_rows(len(of_test), size, self.seed)]

    def images(self, table: pl.DataFrame) -> StoredImages:
        """Return the real images of a table."""
        return StoredImages(self.store, table["image_id"])


def read_scoring_inputs(params: Params, variant: str) -> ScoringInputs:
    """Load the model, the codes of the three splits and the generated sets.

    Raises:
        InputError: if something is missing or broken, or a split has fewer than 2 images.
    """
    dataset = params.pretrain.dataset
    splits = {split: read_coded_images(variant, dataset, split) for split in SPLITS}
    for split, table in splits.items():
        if len(table) < 2:
            raise InputError(
                f"data/codes/{variant}/{split}.parquet: {len(table)} images, at least 2 are needed; "
                "give the split more patients"
            )
    return ScoringInputs(
        trained=load_trained(variant),
        store=TargetImages(Path("data/images") / dataset),
        generated=read_generated_sets(Path("data/generated") / variant),
        reconstructed=params.score_images.reconstructed,
        max_images=params.score_images.max_images,
        seed=params.seed,
        **splits,
    )
