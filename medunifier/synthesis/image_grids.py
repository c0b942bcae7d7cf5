"""PNGs that show real, reconstructed and generated images side by side."""

from pathlib import Path

import numpy as np
import polars as pl

from medunifier.evaluation.trained_model import TrainedModel
from medunifier.image_scoring.reconstruction import decode, to_uint8
from medunifier.storage.image_shards import ImageStore
from medunifier.synthesis.generated_sets import GeneratedSets
from medunifier.synthesis.png_metadata import MODEL_NAME, write_png

FIGURE_COLUMNS = 8  # of figure 3
GRID_FIELDS = {
    "synthetic": "in part",
    "description": "Real images, and images that a model reconstructed or generated. Not for clinical use.",
    "model": MODEL_NAME,
}


def write_grid(path: Path, *lines: np.ndarray) -> None:
    """Write a PNG of lines of images, uint8 [columns, H, W] each; shorter lines end in white."""
    columns = max(map(len, lines))
    rows = []
    for images in lines:
        row = np.full((columns, *images.shape[1:]), 255, np.uint8)
        row[: len(images)] = images
        rows.append(np.concatenate(row, axis=1))
    write_png(path, np.concatenate(rows), GRID_FIELDS)


def write_pairs(path: Path, real: np.ndarray, reconstructed: np.ndarray, columns: int = 8) -> None:
    """Write a PNG of rows of real images, each above the row of their reconstructions, uint8 [n, H, W]."""
    starts = range(0, len(real), columns)
    write_grid(path, *(side[start : start + columns] for start in starts for side in (real, reconstructed)))


def write_figure_3(
    path: Path, trained: TrainedModel, store: ImageStore, test: pl.DataFrame, generated: GeneratedSets
) -> None:
    """Write figure 3 of the paper as a PNG with one image per column.

    The lines are real images, their reconstructions, images generated from their reports (where the priors take a
    text), and images generated without a text.

    Args:
        path: the PNG.
        trained: the model.
        store: the real images.
        test: `image_id`, `top` and `bottom` of the test images.
        generated: the sets of generate_images.
    """
    sources = generated["reports"][0]["source_id"] if "reports" in generated else test["image_id"]
    columns = min(FIGURE_COLUMNS, len(sources), len(generated["unconditional"][0]))
    coded = (
        sources[:columns].to_frame("image_id").join(test, on="image_id", how="left", maintain_order="left")
    )
    lines = [store.read(store.rows(coded["image_id"].to_list())), to_uint8(decode(trained, coded))]
    for name in ("reports", "unconditional"):
        if name in generated:
            lines.append(generated[name][1].read(np.arange(columns)))
    write_grid(path, *lines)
