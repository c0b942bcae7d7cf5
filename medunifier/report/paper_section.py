"""The paper's tables on the page: published rows, ours below with intervals, chance, and what is missing and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from medunifier.report.page import decimals
from medunifier.report.paper_tables import TITLES, Cell
from medunifier.report.tables import PROTOCOLS

MEASURES = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "macro_auroc": "mean AUROC of labels",
    "zero_shot_accuracy": "zero-shot accuracy",
    "finetune_auroc": "fine-tuned AUROC",
    "finetune_accuracy": "fine-tuned accuracy",
    "fid": "FID",
    "fd_vit": "Fréchet distance in the frozen encoder’s features",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    **{f"bleu_{n}": f"BLEU-{n}" for n in range(1, 5)},
    **{f"itr_map@{k}": f"image to text, mAP@{k}" for k in (1, 5, 10)},
    **{f"tir_map@{k}": f"text to image, mAP@{k}" for k in (1, 5, 10)},
}

REMARKS = {  # what a table's values need to be read
    "4": f"Protocol report: {PROTOCOLS['']}. Protocol release: {PROTOCOLS['release_']}.",
    "5": "A Fréchet distance has no interval: it is a property of whole sets, and biased where images are drawn "
    "with replacement. n images are compared.",
}


def paper_section(tables: Mapping[str, Sequence[Cell]]) -> list[dict[str, Any]]:
    """Return each table as page.html shows it: heading, columns, groups of rows, notes."""
    return [table_section(name, cells) for name, cells in tables.items()]


def table_section(name: str, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return one table: methods as rows (objectives in the ablations), columns as in the paper."""
    by_objective = name in ("6", "A1")
    columns = list(dict.fromkeys(_column(cell, by_objective) for cell in cells))
    notes = list(dict.fromkeys(cell.note for cell in cells if cell.value is not None and cell.note))
    groups = []
    for heading, chosen in (
        ("Published", [cell for cell in cells if cell.source != "ours"]),
        ("Ours", [cell for cell in cells if cell.source == "ours"]),
    ):
        rows: dict[tuple[str, str], dict[tuple[str, ...], Cell]] = {}
        for cell in chosen:
            label = cell.method
            if by_objective:  # ours say which variant it is, the paper has one for each
                label = f"{cell.setting}: {cell.method}" if cell.data else cell.setting
            rows.setdefault((label, cell.data), {})[_column(cell, by_objective)] = cell
        shown = [
            {"label": label, "data": data, "cells": [_shown(found.get(column), notes) for column in columns]}
            for (label, data), found in rows.items()
        ]
        groups.append((heading, shown + (_chance(rows, columns) if heading == "Ours" else [])))
    reasons = [cell.note for cell in cells if cell.value is None and cell.note]
    return {
        "name": name,
        "heading": f"Table {name}: {TITLES[name]}",
        "columns": [
            " ".join(filter(None, (d.replace("_", " "), s, MEASURES.get(m, m)))) for d, s, m in columns
        ],
        "groups": [group for group in groups if group[1]],
        "missing": list(dict.fromkeys(reasons)),
        "remark": REMARKS.get(name, ""),
        "notes": notes,
    }


def _column(cell: Cell, by_objective: bool) -> tuple[str, str, str]:
    return cell.dataset, "" if by_objective else cell.setting, cell.metric


def _shown(cell: Cell | None, notes: Sequence[str]) -> dict[str, str] | None:
    """Return the value, its note's number, interval and spread between seeds, or the reason of an empty cell."""
    if cell is None:
        return None
    if cell.value is None:
        return {"value": "", "mark": "", "range": "", "note": cell.note}
    spread = []
    if cell.ci_low is not None and cell.ci_high is not None:
        spread.append(f"{decimals(cell.ci_low, 1)} to {decimals(cell.ci_high, 1)}")
    elif cell.n is not None:
        spread.append(f"n = {cell.n}")
    if cell.seed_sd is not None:
        spread.append(f"{cell.seeds} seeds, sd {decimals(cell.seed_sd, 1)}")
    return {
        "value": decimals(cell.value, 1),
        "mark": str(notes.index(cell.note) + 1) if cell.note else "",
        "range": ", ".join(spread),
        "note": f"n = {cell.n}" if cell.n is not None else "",
    }


def _chance(
    rows: Mapping[tuple[str, str], Mapping[tuple[str, ...], Cell]], columns: Sequence[tuple[str, ...]]
) -> list[dict[str, Any]]:
    """Return rows of the chance level for each of our data sets, one for each definition of a metric."""
    found: dict[tuple[str, str, tuple[str, ...]], None] = {}
    for (label, data), cells in rows.items():
        definition = re.search("AP@K .*", label)
        name = f"chance, {definition[0]}" if definition else "chance"
        levels = [cells[column].chance if column in cells else None for column in columns]
        values = tuple("" if level is None else decimals(level, 1) for level in levels)
        if any(values):
            found.setdefault((name, data, values))
    return [
        {
            "label": name,
            "data": data,
            "cells": [{"value": value, "mark": "", "range": "", "note": ""} for value in values],
        }
        for name, data, values in found
    ]
