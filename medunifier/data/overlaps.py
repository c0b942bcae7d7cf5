"""Images that are the same after decoding, whatever file or data set they come in.

COVIDx, for example, holds images of the RSNA challenge, there PNG and here DICOM. An image that was resized or
compressed again on its way is another one here: only equal grey values are found.
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
    """CONTENTS rows: the SHA-256 of the grey values of each of `images`, uint8 [size, size]."""
    digests = [hashlib.sha256(image).hexdigest() for image in images]
    return pl.DataFrame({"image_id": image_ids, "sha256": digests}, schema=dict(CONTENTS.columns))


def find_overlaps(datasets: Iterable[str], prepared: Path, images: Path) -> pl.DataFrame:
    """Each image that is evaluated on somewhere and trained on somewhere.

    Columns: dataset, split and image_id of the evaluation image; training_dataset and training_image_id.
    `prepared` and `images` are the folders of the prepared tables and of the decoded images.
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
    # A benchmark that stays in its splits (`remove: none`) holds training images: the same, not copies.
    same = (pl.col("dataset") == pl.col("training_dataset")) & (
        pl.col("image_id") == pl.col("training_image_id")
    )
    return found.filter(~same).drop("sha256").sort("dataset", "split", "image_id", "training_image_id")


def count_overlaps(found: pl.DataFrame) -> pl.DataFrame:
    """`images`: evaluation images that are also in training, by dataset, split and training_dataset."""
    keys = ("dataset", "split", "training_dataset")
    return found.group_by(keys).agg(pl.col("image_id").n_unique().alias("pictures")).sort(keys)
