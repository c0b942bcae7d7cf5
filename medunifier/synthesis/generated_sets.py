"""Sets of generated images on disk: a table of prompts, seeds and codes beside a store of pixels."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.storage.image_shards import ImageStore, write_images
from medunifier.storage.tables import Schema, read_table, write_table
from medunifier.synthesis.codes import BOTTOM, TOP

SETS = ("unconditional", "reports", "prompts", "strips")
TABLE = "pictures.parquet"
GENERATED = Schema(
    "generated images",
    {
        "image_id": pl.String,
        "prompt": pl.String,  # the text it was generated from; null: none
        "seed": pl.Int64,
        "source_id": pl.String,  # the real image whose report is the prompt; null: none
        "row": pl.Int64,  # prompts of one row belong together: samples of one prompt, words of one strip
        "top": pl.Array(pl.UInt16, TOP),
        "bottom": pl.Array(pl.UInt16, BOTTOM),
    },
    frozenset({"image_id", "seed", "row", "top", "bottom"}),
)

GeneratedSets = dict[str, tuple[pl.DataFrame, ImageStore]]  # table and pixels, by the name of the set


def write_generated_set(
    folder: str | Path, table: pl.DataFrame, pixels: Iterable[np.ndarray], size: int
) -> None:
    """Write a set.

    Args:
        folder: where to.
        table: by the schema `GENERATED`.
        pixels: one uint8 [size, size] for each row of the table.
        size: height and width in pixels.
    """
    write_images(folder, table["image_id"].to_list(), pixels, size)
    write_table(table, Path(folder) / TABLE, GENERATED)


def read_generated_set(folder: str | Path) -> tuple[pl.DataFrame, ImageStore]:
    """Read a set's table and open the store of its images.

    Raises:
        InputError: if it is missing or broken.
    """
    table = read_table(Path(folder) / TABLE, GENERATED)
    return table, ImageStore(folder, stage="generate_images")


def read_generated_sets(root: str | Path) -> GeneratedSets:
    """Read all sets that generate_images has written under `root`.

    Raises:
        InputError: if the unconditional set is missing, or any set is broken.
    """
    root = Path(root)
    present = [name for name in SETS if name == "unconditional" or (root / name / TABLE).is_file()]
    return {name: read_generated_set(root / name) for name in present}
