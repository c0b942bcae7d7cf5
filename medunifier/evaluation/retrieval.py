"""Retrieval items: which images and reports are ranked, their classes, and re-ranking by the matching head."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.evaluation.trained_model import EvaluatedModel
from medunifier.storage.tables import BENCHMARK, LABEL_PREFIX, PREPARED, read_table


def read_retrieval_items(dataset: str) -> tuple[pl.DataFrame, str]:
    """Read the benchmark of a data set, or its test split if it has none; return it with the name of the file."""
    folder = Path("data/prepared") / dataset
    if (folder / "benchmark.parquet").is_file():
        return read_table(folder / "benchmark.parquet", BENCHMARK), str(folder / "benchmark.parquet")
    return read_table(folder / "test.parquet", PREPARED), str(folder / "test.parquet")


def item_classes(items: pl.DataFrame) -> list[str]:
    """Return the class of each item: `benchmark_class` where there is one, otherwise its single positive label.

    An item with no positive label or with several is of one class with those that have its very report.
    """
    if "benchmark_class" in items.columns:
        return items["benchmark_class"].to_list()
    labels = [name for name in items.columns if name.startswith(LABEL_PREFIX)]
    positive = items.select(pl.col(name) == 1 for name in labels).rows() if labels else [()] * len(items)
    classes = []
    for report, flags in zip(items["report"], positive, strict=True):
        found = [name for name, flag in zip(labels, flags, strict=True) if flag]
        classes.append(found[0] if len(found) == 1 else f"report: {report}")
    return classes


def candidate_odds(
    model: EvaluatedModel, ids: Sequence[str], reports: Sequence[str], ranked: np.ndarray, direction: str
) -> np.ndarray:
    """Return the matching head's log odds for each query and its candidates, float32 [n, K].

    Args:
        model: Has a trained matching head.
        ids: The n images.
        reports: Their reports.
        ranked: Numbers of the candidates of each query, int64 [n, K].
        direction: `i2t`: images are the queries. `t2i`: reports are.
    """
    queries = np.repeat(np.arange(len(ids)), ranked.shape[1])
    candidates = ranked.ravel()
    images, texts = (queries, candidates) if direction == "i2t" else (candidates, queries)
    odds = model.match([ids[i] for i in images.tolist()], [reports[i] for i in texts.tolist()])
    return odds.reshape(ranked.shape)
