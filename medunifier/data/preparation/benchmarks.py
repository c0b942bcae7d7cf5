"""Class-balanced benchmark subsets like CheXpert 5x200 (Huang et al. 2021, GLoRIA)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.data.index_files import one_row_each, read_index, some
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Benchmark
from medunifier.storage.tables import LABEL_PREFIX

# Labels whose "uncertain" GLoRIA and PRIOR map to 1; that of all other labels is mapped to 0.
_UNCERTAIN_IS_POSITIVE = frozenset({"label_atelectasis", "label_edema", "label_pleural_effusion"})

_POOLS = {"train": "the training split", "all": "the data set"}


def choose_benchmark(images: pl.DataFrame, benchmark: Benchmark, seed: int) -> pl.DataFrame:
    """Return `benchmark.per_class` rows of `images` for each class, chosen by `seed`, plus `benchmark_class`.

    Rule `strict`: the class is positive, every other label negative or blank, none uncertain; "No Finding" is
    ignored. Rule `five_only`: of the benchmark's classes exactly that one is positive, uncertain ones mapped as
    in GLoRIA; other labels are free. A class `no_NAME` without a label of its own means NAME = 0 (not blank).
    The choice depends on the set of rows, not on their order.

    Raises:
        InputError: A class has no label column, or fewer candidates than `per_class`.
    """
    own = images
    images = _with_negations(images, benchmark.classes)
    labels = [name for name in images.columns if name.startswith(LABEL_PREFIX)]
    columns = {name: LABEL_PREFIX + name for name in benchmark.classes}
    if unknown := [name for name, column in columns.items() if column not in labels]:
        known = ", ".join(name.removeprefix(LABEL_PREFIX) for name in labels) or "none"
        raise InputError(f"benchmark.classes: no label for {', '.join(unknown)}; the data set has: {known}")
    positive = _positive(benchmark.rule, labels, list(columns.values()))
    found = {name: images.filter(positive[column]).sort("image_id") for name, column in columns.items()}
    if any(len(rows) < benchmark.per_class for rows in found.values()):
        counts = ", ".join(f"{name} {len(rows)}" for name, rows in found.items())
        fewest = min(map(len, found.values()))
        raise InputError(
            f"benchmark.per_class is {benchmark.per_class}, but {_POOLS[benchmark.pool]} holds fewer images of "
            f"a class by rule {benchmark.rule} (frontal images, where views are known): {counts}; lower per_class to at most {fewest}"
        )
    random = np.random.default_rng(seed)
    chosen = []
    for name, rows in found.items():
        places = np.sort(random.choice(len(rows), benchmark.per_class, replace=False))
        chosen.append(rows[places].select(own.columns).with_columns(pl.lit(name).alias("benchmark_class")))
    return pl.concat(chosen)


def read_benchmark(path: Path) -> pl.DataFrame:
    """Return `image_id`, `benchmark_class` of a CSV file without the rows with a blank class."""
    columns = ["image_id", "benchmark_class"]
    frame = read_index(path, columns, filled=["image_id"], ids=["image_id"]).drop_nulls()
    return one_row_each(frame, "image_id", path)


def listed_benchmark(images: pl.DataFrame, benchmark: Benchmark, path: Path) -> pl.DataFrame:
    """Return the rows of `images` that a CSV file (`image_id`, `benchmark_class`) lists, plus `benchmark_class`.

    Rows with a blank class are no part of the benchmark.

    Raises:
        InputError: A class is not in `benchmark.classes` or does not have `per_class` images, or a listed image is
            not in `images`.
    """
    frame = read_benchmark(path)
    sizes = {name: len(frame.filter(benchmark_class=name)) for name in benchmark.classes}
    if wrong := sorted(set(frame["benchmark_class"]) - set(sizes)):
        raise InputError(f"{path}: class {some(wrong)}; expected one of {', '.join(sizes)}")
    if set(sizes.values()) != {benchmark.per_class}:
        counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(
            f"{path}: lists {counts}; benchmark.per_class asks for {benchmark.per_class} of each"
        )
    if absent := frame.join(images, on="image_id", how="anti")["image_id"].sort().to_list():
        raise InputError(
            f"{path}: {len(absent)} of {len(frame)} listed images are not in {_POOLS[benchmark.pool]}: "
            f"{some(absent)}; look for them in rejected.parquet or `prepare --check`, or shorten the list"
        )
    order = {name: number for number, name in enumerate(benchmark.classes)}
    rank = pl.col("benchmark_class").replace_strict(order, return_dtype=pl.Int64)
    return images.join(frame, on="image_id").sort(rank, "image_id")


def _with_negations(images: pl.DataFrame, classes: Sequence[str]) -> pl.DataFrame:
    """Add a label for each class `no_NAME` that has none: 1 where NAME is 0, else 0."""
    for name in classes:
        opposite = LABEL_PREFIX + name.removeprefix("no_")
        if LABEL_PREFIX + name not in images.columns and opposite in images.columns:
            negation = (pl.col(opposite) == 0).fill_null(False).cast(pl.Int8)
            images = images.with_columns(negation.alias(LABEL_PREFIX + name))
    return images


def _positive(rule: str, labels: list[str], classes: list[str]) -> dict[str, pl.Expr]:
    """Map class columns to the condition that a row is positive for that class alone."""
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
    """Return the SHA-256 of the sorted ids, one a line, to compare subsets."""
    return hashlib.sha256("".join(f"{image_id}\n" for image_id in image_ids.sort()).encode()).hexdigest()
