"""Find images that training and evaluation share, by the digest of their decoded grey values.

COVIDx, for example, holds images of the RSNA challenge as PNG files (Wang et al. 2020, COVID-Net). Images that were
resized or compressed again have other grey values and are not found.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.storage.tables import Schema, read_table

CONTENTS = Schema("contents", {"image_id": pl.String, "sha256": pl.String}, frozenset({"image_id", "sha256"}))
TRAINING = "train"
EVALUATION = ("test", "benchmark")


def content_digests(image_ids: Iterable[str], images: Iterable[np.ndarray]) -> pl.DataFrame:
    """Return CONTENTS rows: the SHA-256 of the grey values of each of `images`, uint8 [size, size]."""
    digests = [hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in images]
    return pl.DataFrame({"image_id": image_ids, "sha256": digests}, schema=dict(CONTENTS.columns))


def find_overlaps(datasets: Iterable[str], prepared: Path, images: Path) -> pl.DataFrame:
    """Return the evaluation images that some data set holds in its training split.

    Args:
        datasets: names of the data sets to compare.
        prepared: folder of the prepared tables (data/prepared).
        images: folder of the decoded images (data/images).

    Returns:
        Columns `dataset`, `split` and `image_id` of the evaluation image; `training_dataset` and
        `training_image_id` of the training image with the same grey values.
    """
    parts = []
    for dataset in datasets:
        part = read_table(images / dataset / "contents.parquet", CONTENTS)
        for split in (TRAINING, *EVALUATION):
            path = prepared / dataset / f"{split}.parquet"
            if path.exists():
                ids = read_table(path).select(
                    pl.lit(dataset).alias("dataset"), pl.lit(split).alias("split"), "image_id"
                )
                parts.append(ids.join(part, on="image_id"))
    digests = pl.concat(parts)
    training = digests.filter(split=TRAINING).select(
        "sha256", training_dataset="dataset", training_image_id="image_id"
    )
    found = digests.filter(pl.col("split") != TRAINING).join(training, on="sha256")
    # With `remove: none` a benchmark image stays in its split: it is the training image itself, not a copy.
    same = (pl.col("dataset") == pl.col("training_dataset")) & (
        pl.col("image_id") == pl.col("training_image_id")
    )
    return found.filter(~same).drop("sha256").sort("dataset", "split", "image_id", "training_image_id")


def count_overlaps(found: pl.DataFrame) -> pl.DataFrame:
    """Count the evaluation images in training (column `pictures`) by dataset, split and training_dataset."""
    keys = ("dataset", "split", "training_dataset")
    return found.group_by(keys).agg(pl.col("image_id").n_unique().alias("pictures")).sort(keys)
