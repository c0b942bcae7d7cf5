"""Class-balanced benchmark subsets in the manner of CheXpert 5x200 (Huang et al. 2021, GLoRIA)."""

import hashlib

import numpy as np
import polars as pl

from stages.errors import InputError
from stages.params import Benchmark
from stages.storage.tables import LABEL_PREFIX

# How GLoRIA and PRIOR read "uncertain"; every other label counts it as 0.
_UNCERTAIN_IS_POSITIVE = frozenset({"label_atelectasis", "label_edema", "label_pleural_effusion"})


def choose_benchmark(images: pl.DataFrame, benchmark: Benchmark, seed: int) -> pl.DataFrame:
    """`benchmark.per_class` rows of `images` for each class, drawn by `seed`, plus `benchmark_class`.

    Rule `strict`: the class is positive, every other label negative or blank, none uncertain; "No Finding" is
    not looked at. Rule `five_only`: of the benchmark's classes exactly that one is positive, uncertain ones
    mapped as GLoRIA does; other labels are free. The choice depends on the set of rows, not on their order.
    Raises InputError for a class without a label column, or with fewer candidates than asked for.
    """
    labels = [name for name in images.columns if name.startswith(LABEL_PREFIX)]
    columns = {name: LABEL_PREFIX + name for name in benchmark.classes}
    if unknown := [name for name, column in columns.items() if column not in labels]:
        known = ", ".join(label.removeprefix(LABEL_PREFIX) for label in labels) or "none"
        raise InputError(f"benchmark.classes: no label for {', '.join(unknown)}; the data set has: {known}")
    positive = _positive(benchmark.rule, labels, list(columns.values()))
    found = {name: images.filter(positive[column]).sort("image_id") for name, column in columns.items()}
    if any(len(rows) < benchmark.per_class for rows in found.values()):
        counts = ", ".join(f"{name} {len(rows)}" for name, rows in found.items())
        fewest = min(map(len, found.values()))
        raise InputError(
            f"benchmark.per_class is {benchmark.per_class}, but the training split holds fewer images of "
            f"a class by rule {benchmark.rule}: {counts}; lower per_class to at most {fewest}"
        )
    random = np.random.default_rng(seed)
    chosen = []
    for name, rows in found.items():
        places = np.sort(random.choice(len(rows), benchmark.per_class, replace=False))
        chosen.append(rows[places].with_columns(pl.lit(name).alias("benchmark_class")))
    return pl.concat(chosen)


def _positive(rule: str, labels: list[str], classes: list[str]) -> dict[str, pl.Expr]:
    """Class column -> the condition under which a row stands for that class alone."""
    if rule == "strict":
        value = {
            label: pl.col(label).fill_null(0) for label in labels if label != f"{LABEL_PREFIX}no_finding"
        }
    else:
        value = {
            label: pl.col(label).replace(-1, int(label in _UNCERTAIN_IS_POSITIVE)).fill_null(0)
            for label in classes
        }
    return {
        column: pl.all_horizontal((value[label] == int(label == column)) for label in value)
        for column in classes
    }


def ids_digest(image_ids: pl.Series) -> str:
    """SHA-256 of the sorted ids, one a line: two subsets are the same exactly if their digests are."""
    return hashlib.sha256("".join(f"{image_id}\n" for image_id in image_ids.sort()).encode()).hexdigest()
