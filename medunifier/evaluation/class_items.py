"""The images of a zero-shot evaluation with their class: a benchmark's, or those that a prompt file describes."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medunifier.evaluation.class_prompts import ClassPrompts, PromptFile
from medunifier.runtime.errors import InputError
from medunifier.storage.mapped_rows import MappedRows
from medunifier.storage.tables import BENCHMARK, PREPARED, read_table
from medunifier.tracking import LocalRun


def read_class_items(
    dataset: str, file: PromptFile, store: MappedRows, run: LocalRun
) -> tuple[pl.DataFrame, list[ClassPrompts]]:
    """Read the images to classify, with their `class`, and the classes.

    Args:
        dataset: Data set.
        file: Prompt file, which says where the images come from.
        store: Images or image features of the data set; images that are not in it are counted and left out.
        run: Receives the counts.

    Raises:
        InputError: If the data set has no benchmark, if a class has no prompts or no image, or if a `where` does not
            fit the table.
    """
    folder = Path("data/prepared") / dataset
    if file.items == "benchmark":
        source = folder / "benchmark.parquet"
        items, names = _benchmark(dataset, source, file)
    else:
        source = folder / "test.parquet"
        names = list(file.classes)
        items = of_one_class(read_table(source, PREPARED), file, run)
    present = pl.Series([image_id in store for image_id in items["image_id"]], dtype=pl.Boolean)
    run.metrics({"n_without_picture": len(items) - int(present.sum())})
    items = items.filter(present)
    for name in names:
        if name not in items["class"]:
            hint = f"its `where` is {dict(file.classes[name].where)}; change it, or take the class out"
            if file.items == "benchmark":
                hint = f"look at data/images/{dataset}/rejected.parquet"
            raise InputError(
                f"{file.path}: classes.{name}: no image of {source} is of this class alone and stored; {hint}"
            )
    return items, [file.classes[name] for name in names]


def _benchmark(dataset: str, source: Path, file: PromptFile) -> tuple[pl.DataFrame, list[str]]:
    """Return the images of a benchmark with their `class`, and the names of its classes."""
    if not source.is_file():
        raise InputError(
            f"{file.path}: items is `benchmark`, but {dataset} has none; set datasets.{dataset}.benchmark in "
            "params.yaml, or give a prompt file with `items: test` and classes of your own"
        )
    table = read_table(source, BENCHMARK)
    names = table["benchmark_class"].unique(maintain_order=True).to_list()
    if missing := [name for name in names if name not in file.classes]:
        raise InputError(
            f"{file.path}: no prompts for {', '.join(missing)}, classes of {dataset}'s benchmark; "
            f"it has {', '.join(file.classes)}"
        )
    return table.with_columns(pl.col("benchmark_class").alias("class")), names


def of_one_class(table: pl.DataFrame, file: PromptFile, run: LocalRun) -> pl.DataFrame:
    """Select the rows for which exactly one class of the file holds, with that `class`; count the others.

    Raises:
        InputError: If a `where` does not fit the table.
    """
    holds = []
    for c in file.classes.values():
        if missing := [column for column in c.where if column not in table.columns]:
            raise InputError(
                f"{file.path}: classes.{c.name}.where: the data set has no column {', '.join(missing)}; "
                f"it has {', '.join(table.columns)}"
            )
        conditions = [
            equals(table, column, value, f"{file.path}: classes.{c.name}.where.{column}")
            for column, value in c.where.items()
        ]
        holds.append(np.logical_and.reduce(conditions))
    matrix = np.stack(holds, axis=1)
    single = matrix.sum(1) == 1
    run.metrics(
        {
            "n_without_class": int((matrix.sum(1) == 0).sum()),
            "n_of_several_classes": int((matrix.sum(1) > 1).sum()),
        }
    )
    names = np.array(list(file.classes))[matrix.argmax(1)]
    return table.with_columns(pl.Series("class", names.tolist(), pl.String)).filter(pl.Series(single))


def equals(table: pl.DataFrame, column: str, value: Any, place: str) -> np.ndarray:
    """Return the rows, bool [n], in which `column` is `value`; None: in which it is blank.

    Raises:
        InputError: Naming `place`, for a value of another type than the column's.
    """
    if value is None:
        return table[column].is_null().to_numpy()
    of_text = table[column].dtype == pl.String
    if not isinstance(value, str if of_text else int | float):
        expected = "a text, in quotes" if of_text else "a number: 1 present, 0 absent, -1 uncertain"
        raise InputError(f"{place}: {value!r} does not fit the column; give it {expected}; or null: blank")
    return (table[column] == value).fill_null(False).to_numpy()
