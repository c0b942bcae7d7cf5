"""The paper's tables, the published rows beside ours: results/tables/table_1 ... 6, A1.

`published_results.csv` holds every cell of the paper's Tables 1-6 and of appendix Table 1, as printed. Ours come from
`our_cells`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from medunifier.report.our_cells import Ours
from medunifier.report.seed_means import ReadMetrics, reading_means, seed_groups, with_means
from medunifier.report.table_cell import Cell, write_cells
from medunifier.runtime.params import Params

PUBLISHED = Path(__file__).with_name("published_results.csv")
TITLES = {
    "1": "Fine-tuned image classification",
    "2": "Image-text retrieval",
    "3": "Zero-shot image classification",
    "4": "Report generation",
    "5": "Image generation",
    "6": "Objectives of pre-training: image-to-text retrieval",
    "A1": "Objectives of pre-training and weight of TIG: classification",
}


def paper_tables(
    params: Params, read: ReadMetrics, phantoms: set[str], zero_shot_items: str
) -> dict[str, list[Cell]]:
    """Return all tables by name: for every column of the paper the published rows, then ours.

    What is evaluated here and has no column in the paper follows under the name of our data set. Variants that
    differ in nothing but the seed have a row each, and one for their mean where all of them were evaluated.

    Args:
        params: parameters of the pipeline.
        read: the metrics of a stage that params.yaml enables; not asked about others.
        phantoms: names of the data sets that are synthetic.
        zero_shot_items: images that the prompt file asks for: `benchmark` or `test`.
    """
    means = seed_groups(params)
    source = Ours(with_means(params, means), reading_means(read, means), phantoms, zero_shot_items)
    tables: dict[str, list[Cell]] = {name: [] for name in TITLES}
    for row in published():
        cells = tables[row["table"]]
        cells.append(
            Cell(
                row["dataset"],
                row["setting"],
                row["metric"],
                row["method"],
                row["source"],
                "",
                float(row["value"]),
            )
        )
    for name, cells in tables.items():
        # a mean that was not measured needs no row: those of its variants say why
        tables[name] = cells + [
            cell
            for cell in source.cells(name, cells)
            if cell.value is not None or not any(mean in cell.method for mean in means)
        ]
    return tables


def published() -> list[dict[str, str]]:
    """Return the rows of published_results.csv."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_tables(tables: Mapping[str, list[Cell]], folder: Path) -> None:
    """Write `table_NAME.csv` of each table into `folder`."""
    for name, cells in tables.items():
        write_cells(folder / f"table_{name}.csv", cells)
