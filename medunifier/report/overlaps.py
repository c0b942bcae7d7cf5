"""Images that are both in an evaluation set and in a training set, as counts and as the page shows them."""

from __future__ import annotations

from typing import Any

import polars as pl


def overlap_section(counts: pl.DataFrame, datasets: int) -> dict[str, Any]:
    """Return what page.html shows of `counts` (dataset, split, training_dataset, pictures)."""
    return {"rows": counts.to_dicts(), "datasets": datasets}


def overlap_metrics(found: pl.DataFrame) -> dict[str, int]:
    """Count evaluation images that are in training: in all, across data sets, and for each data set."""
    other = found.filter(pl.col("dataset") != pl.col("training_dataset"))
    metrics = {"overlap_pictures": _images(found), "overlap_pictures_across_datasets": _images(other)}
    for (dataset,), part in found.group_by("dataset", maintain_order=True):
        metrics[f"overlap_pictures_{dataset}"] = _images(part)
    return metrics


def _images(found: pl.DataFrame) -> int:
    return found.select("dataset", "image_id").n_unique()
