"""What each item scored in an evaluation: results/items/STAGE.parquet, from which models are compared in pairs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.storage.tables import Schema, read_table, write_table

ITEMS = Schema(
    "item scores",
    {
        "metric": pl.String,  # as in the stage's metrics file
        "seed": pl.Int64,
        "item_id": pl.String,
        "patient_id": pl.String,
        "value": pl.Float64,  # the item's own score; for AUROC the probability
        "positive": pl.Boolean,  # for AUROC: whether the item is positive; null otherwise
        # BLEU and METEOR: counts from whose sums the metric is computed; null where it is the mean of `value`, or AUROC
        "statistics": pl.List(pl.Float64),
    },
    frozenset({"metric", "seed", "item_id", "patient_id", "value"}),
)


def item_rows(
    metric: str,
    ids: Sequence[str],
    patients: Sequence[str],
    values: np.ndarray,
    *,
    seed: int = 0,
    positive: np.ndarray | None = None,
    statistics: np.ndarray | None = None,
) -> pl.DataFrame:
    """The rows of one metric under one seed; values [n], positive bool [n], statistics [n, S]."""
    n = len(ids)
    columns = {
        "metric": [metric] * n,
        "seed": [seed] * n,
        "item_id": list(ids),
        "patient_id": list(patients),
        "value": np.asarray(values, np.float64),
        "positive": [None] * n if positive is None else positive.tolist(),
        "statistics": [None] * n if statistics is None else statistics.tolist(),
    }
    return pl.DataFrame(columns, schema=dict(ITEMS.columns))


def write_items(stage: str, rows: Sequence[pl.DataFrame]) -> None:
    """`rows` of all metrics of a stage as its file."""
    write_table(pl.concat(rows), items_path(stage), ITEMS)


def read_items(stage: str) -> pl.DataFrame:
    """What `write_items` wrote; InputError if it is missing."""
    return read_table(items_path(stage), ITEMS)


def items_path(stage: str) -> Path:
    """Where a stage's item scores lie."""
    return Path("results/items") / f"{stage}.parquet"
