"""Codes of images in the two codebooks: one Parquet table for each split."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.runtime.errors import InputError
from medunifier.storage.tables import PREPARED, Schema, read_table, write_table

TOP, BOTTOM = 64, 256  # codes of an image: 8 x 8 and 16 x 16, row by row
CODES = Schema(
    "codes",
    {"image_id": pl.String, "top": pl.Array(pl.UInt16, TOP), "bottom": pl.Array(pl.UInt16, BOTTOM)},
    frozenset({"image_id", "top", "bottom"}),
)


def write_codes(path: str | Path, image_ids: Sequence[str], top: np.ndarray, bottom: np.ndarray) -> None:
    """Write the codes of images, atomically.

    Args:
        path: the Parquet file.
        image_ids: n ids.
        top: integers [n, 64] in 0..65535.
        bottom: integers [n, 256] in 0..65535.

    Raises:
        ValueError: on another shape or a code out of range.
    """
    for name, codes, length in (("top", top, TOP), ("bottom", bottom, BOTTOM)):
        if codes.shape != (len(image_ids), length):
            raise ValueError(f"{path}: {name} is {codes.shape}, expected {(len(image_ids), length)}")
        if codes.size and not 0 <= codes.min() <= codes.max() < 2**16:
            raise ValueError(f"{path}: {name} holds codes {codes.min()}..{codes.max()}, expected 0..65535")
    columns = {"image_id": list(image_ids), "top": top.astype(np.uint16), "bottom": bottom.astype(np.uint16)}
    write_table(pl.DataFrame(columns, schema=dict(CODES.columns)), path, CODES)


def read_codes(path: str | Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return image ids, top codes uint16 [n, 64] and bottom codes uint16 [n, 256].

    Raises:
        InputError: as for `read_table`.
    """
    table = read_table(path, CODES)
    return table["image_id"].to_list(), table["top"].to_numpy(), table["bottom"].to_numpy()


def read_coded_images(variant: str, dataset: str, split: str) -> pl.DataFrame:
    """Return the codes of a split with the images' prepared rows.

    Args:
        variant: the model that has encoded the images.
        dataset: the data set of its pre-training.
        split: train | validate | test.

    Returns:
        `image_id`, `top`, `bottom` and the columns of the prepared table, in the order of the codes.

    Raises:
        InputError: if a table is missing or broken, or if images with codes have no prepared row.
    """
    path = Path("data/codes") / variant / f"{split}.parquet"
    ids, top, bottom = read_codes(path)
    prepared = read_table(Path("data/prepared") / dataset / f"{split}.parquet", PREPARED)
    table = pl.DataFrame({"image_id": ids, "top": top, "bottom": bottom})
    table = table.join(prepared, on="image_id", how="left", maintain_order="left")
    if unknown := table["patient_id"].null_count():
        raise InputError(
            f"{path}: {unknown} images are not in data/prepared/{dataset}; run encode_codes@{variant} again"
        )
    return table
