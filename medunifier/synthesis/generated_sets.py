"""Drawn images on disk: what each was drawn from, beside a store of their pixels."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.storage.image_shards import ImageStore, write_images
from medunifier.storage.tables import Schema, read_table, write_table
from medunifier.synthesis.codes import BOTTOM, TOP

TABLE = "pictures.parquet"
DRAWN = Schema(
    "drawn images",
    {
        "image_id": pl.String,
        "prompt": pl.String,  # the text it was drawn from; null: none
        "seed": pl.Int64,
        "source_id": pl.String,  # the real image whose report is the prompt; null: none
        "row": pl.Int64,  # prompts of one row belong together: samples of one prompt, words of one strip
        "top": pl.Array(pl.UInt16, TOP),
        "bottom": pl.Array(pl.UInt16, BOTTOM),
    },
    frozenset({"image_id", "seed", "row", "top", "bottom"}),
)


def write_drawn(folder: str | Path, table: pl.DataFrame, pixels: Iterable[np.ndarray], size: int) -> None:
    """Write a set: `table` by the schema `DRAWN`, and for each of its rows one uint8 [size, size] of `pixels`."""
    write_images(folder, table["image_id"].to_list(), pixels, size)
    write_table(table, Path(folder) / TABLE, DRAWN)


def read_drawn(folder: str | Path) -> tuple[pl.DataFrame, ImageStore]:
    """A set's table and the store of its images; InputError if it is missing or broken."""
    table = read_table(Path(folder) / TABLE, DRAWN)
    return table, ImageStore(folder, stage="generate_images")
