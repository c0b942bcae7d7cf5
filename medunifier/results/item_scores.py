"""Scores of single items: results/items/STAGE.parquet, from which models are compared in pairs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.metrics.clinical_scorers import ItemScores
from medunifier.metrics.meteor import meteor
from medunifier.metrics.report_scores import TextScores
from medunifier.metrics.text import ORDERS, bleu
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
        # BLEU, METEOR, F1 of findings: counts from whose sums the metric is computed; null where it is the mean of `value`, or AUROC
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
    """Build the rows of one metric under one seed.

    Args:
        metric: Name, as in the stage's metrics file.
        ids: n items.
        patients: Their patients.
        values: Their scores, [n].
        seed: Seed of the evaluation.
        positive: For AUROC: whether each item is positive, bool [n].
        statistics: For BLEU and METEOR: counts of each item, [n, S].
    """
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


def classifier_rows(
    prefix: str,
    ids: Sequence[str],
    patients: Sequence[str],
    target: np.ndarray,
    seeds: Sequence[int],
    scores: Sequence[np.ndarray],
) -> list[pl.DataFrame]:
    """Build the rows of a classifier: `auroc` of a binary task, `accuracy` otherwise.

    Args:
        prefix: Put before the name of the metric.
        ids: n images.
        patients: Their patients.
        target: Their class numbers, int64 [n].
        seeds: Seeds of the evaluation.
        scores: Probabilities [n, C] under each seed.
    """
    rows = []
    for seed, found in zip(seeds, scores, strict=True):
        if found.shape[1] == 2:
            rows.append(
                item_rows(f"{prefix}auroc", ids, patients, found[:, 1], seed=seed, positive=target == 1)
            )
        else:
            rows.append(accuracy_rows(prefix, ids, patients, target, seed, found))
    return rows


def label_rows(
    prefix: str,
    ids: Sequence[str],
    patients: Sequence[str],
    target: np.ndarray,
    labels: Sequence[str],
    seeds: Sequence[int],
    scores: Sequence[np.ndarray],
) -> list[pl.DataFrame]:
    """Build the rows of labels that do not exclude each other: `auroc_LABEL` over the items where it is known.

    Args:
        prefix: Put before the names of the metrics.
        ids: n images.
        patients: Their patients.
        target: 1, 0, or -1 where the label is ignored, int64 [n, L].
        labels: Names of the L labels.
        seeds: Seeds of the evaluation.
        scores: Probabilities [n, L] under each seed.
    """
    rows = []
    for i, label in enumerate(labels):
        known = np.flatnonzero(target[:, i] >= 0).tolist()
        names, people = ([values[row] for row in known] for values in (ids, patients))
        positive = target[known, i] == 1
        for seed, found in zip(seeds, scores, strict=True):
            metric = f"{prefix}auroc_{label}"
            rows.append(item_rows(metric, names, people, found[known, i], seed=seed, positive=positive))
    return rows


def accuracy_rows(
    prefix: str,
    ids: Sequence[str],
    patients: Sequence[str],
    target: np.ndarray,
    seed: int,
    scores: np.ndarray,
) -> pl.DataFrame:
    """Build the rows of `accuracy` under one seed, from scores [n, C]; arguments as for `classifier_rows`."""
    return item_rows(f"{prefix}accuracy", ids, patients, scores.argmax(1) == target, seed=seed)


def report_rows(scores: TextScores, ids: Sequence[str], patients: Sequence[str]) -> list[pl.DataFrame]:
    """Build the rows of generated reports: BLEU-1 to 4, METEOR, ROUGE-L, and CIDEr where it means something."""
    bleus = bleu(scores.bleu)
    return [
        *(
            item_rows(f"bleu_{n}", ids, patients, bleus[:, n - 1], statistics=scores.bleu)
            for n in range(1, ORDERS + 1)
        ),
        item_rows("meteor", ids, patients, meteor(scores.meteor), statistics=scores.meteor),
        item_rows("rouge_l", ids, patients, scores.rouge_l),
        *([] if scores.cider is None else [item_rows("cider", ids, patients, scores.cider)]),
    ]


def clinical_rows(
    scores: Sequence[ItemScores], ids: Sequence[str], patients: Sequence[str]
) -> list[pl.DataFrame]:
    """Build the rows of generated reports: F1 of the mentioned findings, and clinical scorers."""
    return [item_rows(each.metric, ids, patients, each.values, statistics=each.counts) for each in scores]


def write_items(stage: str, rows: Sequence[pl.DataFrame]) -> None:
    """Write the rows of all metrics of a stage as its file."""
    write_table(pl.concat(rows), items_path(stage), ITEMS)


def read_items(stage: str) -> pl.DataFrame:
    """Read the rows of a stage.

    Raises:
        InputError: If its file is missing.
    """
    return read_table(items_path(stage), ITEMS)


def items_path(stage: str) -> Path:
    """Return the file of a stage's item scores."""
    return Path("results/items") / f"{stage}.parquet"
