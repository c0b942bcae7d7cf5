"""Metrics within each view of a data set, so that what goes with the view alone does not count."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_counts
from medunifier.metrics.clinical_scorers import scale_of
from medunifier.report.differences import RESAMPLES, evaluations, score_items
from medunifier.runtime.files import atomic_path
from medunifier.runtime.params import Params
from medunifier.storage.tables import read_table

LEAST = 10  # images that a view needs


@dataclass(frozen=True)
class WithinView:
    """A metric over the images of one view, in the units of the metrics files; columns of views.csv."""

    evaluation: str  # family and data set, and the part of the training data
    metric: str
    model: str
    view: str
    value: float
    ci_low: float
    ci_high: float
    n: int


def within_views(
    params: Params, read: Callable[[str], pl.DataFrame], read_views: Callable[[str], pl.DataFrame]
) -> list[WithinView]:
    """Compute the metrics of every model and evaluation within each view, where a data set has several.

    A ranking is not made again: within a view are its queries, not its candidates. A metric that needs positive and
    negative items is left out where the view has one of them only, and so are views of fewer than `LEAST` images.

    Args:
        params: parameters of the pipeline.
        read: stage -> its item scores (`medunifier.results.item_scores`).
        read_views: data set -> `image_id` and `view` of its evaluated images.
    """
    found = []
    for evaluation, stages in evaluations(params):
        views = read_views(evaluation.split()[1])
        if views["view"].drop_nulls().n_unique() < 2:
            continue
        for model, stage in stages.items():
            items = read(stage).join(views, left_on="item_id", right_on="image_id", maintain_order="left")
            found += [
                WithinView(evaluation, metric, model, view, *values)
                for metric, view, values in _by_view(items, params.seed)
            ]
    return found


def _by_view(items: pl.DataFrame, seed: int) -> Iterator[tuple[str, str, tuple[float, float, float, int]]]:
    """Yield (metric, view, (value, low, high, images)) of item scores with their `view`."""
    known = items.filter(pl.col("view").is_not_null())
    for (metric, view), rows in known.group_by("metric", "view", maintain_order=True):
        seeds = [part for (_,), part in rows.group_by("seed", maintain_order=True)]
        positive = seeds[0]["positive"].drop_nulls()
        if len(seeds[0]) < LEAST or (len(positive) and positive.n_unique() < 2):
            continue

        def score(counts: np.ndarray, seeds: list[pl.DataFrame] = seeds) -> np.ndarray:
            """Counts [..., n] -> value [..., 1], the mean over seeds."""
            return np.mean([score_items(part, counts) for part in seeds], axis=0)[..., None]

        options = BootstrapOptions(RESAMPLES, seed, clusters=seeds[0]["patient_id"].to_list())
        (interval,) = bootstrap_counts(score, len(seeds[0]), options)
        scale = scale_of(str(metric))
        yield (
            str(metric),
            str(view),
            (
                scale * interval.value,
                scale * interval.low,
                scale * interval.high,
                interval.n,
            ),
        )


def read_views(dataset: str) -> pl.DataFrame:
    """Return `image_id` and `view`, null where it is unknown, of the images on which a data set is evaluated."""
    paths = [Path("data/prepared") / dataset / f"{name}.parquet" for name in ("test", "benchmark")]
    tables = [read_table(path) for path in paths if path.is_file()]
    return pl.concat(table.select("image_id", pl.col("view").cast(pl.String)) for table in tables).unique()


def write_views(found: list[WithinView], path: Path) -> None:
    """Write views.csv: a line for each metric and view, values rounded to 4 decimals."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(WithinView))
        for line in found:
            writer.writerow(round(v, 4) if isinstance(v, float) else v for v in asdict(line).values())
