"""One cell of the paper's tables, published or ours, and the CSV file of a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from medunifier.runtime.files import atomic_path


@dataclass(frozen=True)
class Cell:
    """One value of one method; the columns of the CSV files, in this order."""

    dataset: str  # the paper's name of the data set, or ours where the paper has none like it
    setting: str  # part of the training data, objectives, kind of image; empty where there is none
    metric: str
    method: str
    source: str  # paper | paper appendix | ours
    data: str  # the data set of ours that was measured; `(phantom)` follows synthetic ones
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    chance: float | None = None
    note: str = ""  # why a value is missing, or what it is
    # number of seeds that the value is a mean over: of training where the method says `mean of`, else of the evaluation
    seeds: int | None = None
    seed_sd: float | None = None  # standard deviation between them


Place = tuple[str, str, str]  # a column of a table: dataset, metric, setting


def write_cells(path: Path, cells: Sequence[Cell]) -> None:
    """Write one line for each cell, with the fields of `Cell` as columns and values rounded to 4 decimals."""
    names = [field.name for field in fields(Cell)]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for cell in cells:
            values = (getattr(cell, name) for name in names)
            writer.writerow(
                [round(v, 4) if isinstance(v, float) else ("" if v is None else v) for v in values]
            )
