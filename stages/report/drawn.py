"""The page's section on newly drawn pictures: Table 5's rows, fidelity, figure 3, prompts, strips, nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stages.prompts import BLANK
from stages.report.pictures import jpeg_uri
from stages.report.tables import Metrics, Row, present, row
from stages.storage.drawn import TABLE, read_drawn
from stages.storage.images import ImageStore
from stages.storage.tables import read_table

SAMPLES = 4  # pictures shown of each prompt
PAIRS = 6  # pictures shown beside the training picture that is nearest to them
COMPARED = {
    "validation": "real validation pictures",
    "reconstruction": "test pictures, reconstructed",
    "synthetic": "drawn without a text (as the paper)",
    "reports": "drawn from test reports",
}
SETS = {
    "validation": "real validation pictures",
    "reconstruction": "test pictures, reconstructed",
    "unconditional": "drawn without a text",
    "reports": "drawn from test reports",
    "prompts": "drawn from prompts",
}


def drawn_section(variant: str, dataset: str, metrics: Metrics) -> dict[str, Any] | None:
    """What drawn.html shows of one variant; None where nothing has been drawn.

    Reads data/generated/VARIANT, results/images/VARIANT and data/images/DATASET.
    """
    root, results = Path("data/generated") / variant, Path("results/images") / variant
    if not (root / "unconditional" / TABLE).is_file():
        return None
    return {
        "heading": f"Variant {variant} on {dataset}",
        "distances": distance_rows(metrics),
        "fidelity": fidelity_rows(metrics),
        "findings": finding_rows(metrics),
        "diversity": diversity_rows(metrics),
        "nearest": nearest_rows(metrics),
        "figure": picture_lines(results / "figure_3.png", ImageStore(root / "unconditional").height),
        "prompts": prompt_lines(root / "prompts"),
        "strips": strip_lines(root / "strips"),
        "pairs": nearest_pairs(results / "nearest.parquet", root, ImageStore(Path("data/images") / dataset)),
    }


def distance_rows(metrics: Metrics) -> list[tuple[str, int, list[float | None]]]:
    """(set, pictures, [Frechet distance, kernel distance, precision, recall, FID, KID]) of each compared set."""
    found = []
    for name, label in COMPARED.items():
        if f"fd_vit_{name}" in metrics:
            keys = ("fd_vit", "kd_vit", "precision_vit", "recall_vit", "fid", "kid")
            values = [metrics.get(f"{key}_{name}") for key in keys]
            found.append((label, int(metrics[f"fd_vit_{name}_n"]), values))
    return found


def fidelity_rows(metrics: Metrics) -> list[tuple[Row, Row | None, float | None, Row | None]]:
    """(drawn from prompts, the same prompts on unconditional pictures, chance, the judge on real pictures)."""
    found = []
    for name, label, real in (
        ("prompt_fidelity", "the finding asked for", "judge_accuracy"),
        ("prompt_fidelity_side", "its side, left or right", "judge_side_accuracy"),
        ("prompt_fidelity_both", "finding and side", ""),
        ("report_fidelity_auroc", "findings of test reports, AUROC", "judge_auroc"),
        ("prompt_retrieval_recall_at_1", "the model finds the prompt", ""),
        ("report_retrieval_recall_at_1", "the model finds the report", ""),
    ):
        value = row(metrics, name, label)
        if value is not None:
            chance = 50.0 if name.endswith("auroc") else metrics.get(f"{name}_chance")
            found.append((value, row(metrics, f"{name}_unconditional", ""), chance, row(metrics, real, "")))
    return found


def finding_rows(metrics: Metrics) -> list[tuple[str, Row, float | None]]:
    """(finding, how often it was drawn when asked for, the judge's AUROC for it on real pictures)."""
    found = []
    for name in metrics:
        finding = name.removeprefix("judge_auroc_")
        if f"prompt_fidelity_{finding}_n" not in metrics:  # the end of an interval, not a finding
            continue
        value = row(metrics, f"prompt_fidelity_{finding}", finding.replace("_", " "))
        if finding != name and value is not None:
            found.append((value.label, value, metrics[name]))
    return found


def diversity_rows(metrics: Metrics) -> list[Row]:
    return present(
        [
            row(metrics, "ms_ssim_prompt", "samples of one prompt", digits=3),
            row(metrics, "ms_ssim_real", "different real pictures", digits=3),
        ]
    )


def nearest_rows(metrics: Metrics) -> list[tuple[str, float, float | None]]:
    """(set, median distance to the nearest training picture, percent that are suspiciously near)."""
    return [
        (label, metrics[f"nearest_{name}"], metrics.get(f"nearest_{name}_suspicious"))
        for name, label in SETS.items()
        if f"nearest_{name}" in metrics
    ]


def picture_lines(path: Path, size: int) -> list[tuple[str, list[str]]]:
    """(what it shows, pictures) of each line of figure 3."""
    from PIL import Image

    with Image.open(path) as image:
        grid = np.asarray(image.convert("L"))
    lines = grid.reshape(grid.shape[0] // size, size, grid.shape[1] // size, size).swapaxes(1, 2)
    names = ["real", "reconstructed", "drawn from their reports", "drawn without a text"]
    names = names if len(lines) == len(names) else [names[0], names[1], names[3]]
    return [(name, [jpeg_uri(picture) for picture in line]) for name, line in zip(names, lines, strict=True)]


def prompt_lines(folder: Path) -> list[tuple[str, list[str]]]:
    """(prompt, pictures) of each prompt; nothing where the set was not drawn."""
    return [(prompts[0], pictures[:SAMPLES]) for prompts, pictures in _rows(folder)]


def strip_lines(folder: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """(sentence with a blank, [(word, picture)]) of each strip."""
    found = []
    for prompts, pictures in _rows(folder):
        split = [prompt.split() for prompt in prompts]
        start, end = _shared(split), _shared([words[::-1] for words in split])
        words = [" ".join(words[start : len(words) - end]).strip(".") for words in split]
        sentence = prompts[0].replace(words[0], BLANK.replace("{}", "…"), 1)
        found.append((sentence, list(zip(words, pictures, strict=True))))
    return found


def _rows(folder: Path) -> list[tuple[list[str], list[str]]]:
    """Prompts and pictures, half as fine as they are, by the column `row`."""
    if not (folder / TABLE).is_file():
        return []
    table, store = read_drawn(folder)
    found = []
    for _, part in table.group_by("row", maintain_order=True):
        pixels = store.read(store.rows(part["image_id"])).astype(np.float32)
        n, height, width = pixels.shape
        small = pixels.reshape(n, height // 2, 2, width // 2, 2).mean((2, 4)).round().astype(np.uint8)
        found.append((part["prompt"].to_list(), [jpeg_uri(picture) for picture in small]))
    return found


def _shared(lists: Sequence[Sequence[str]]) -> int:
    """How many first words all lists share, the whole of the shortest aside."""
    count = 0
    while count + 1 < min(map(len, lists)) and len({words[count] for words in lists}) == 1:
        count += 1
    return count


def nearest_pairs(path: Path, root: Path, store: ImageStore) -> list[tuple[str, str, str]]:
    """(drawn picture, the training picture nearest to it, distance) of the drawn pictures that are nearest of all."""
    table = read_table(path).filter(pl.col("set").is_in(["unconditional", "reports", "prompts"]))
    found = []
    for line in table.sort("distance", "image_id")[:PAIRS].iter_rows(named=True):
        drawn = ImageStore(root / line["set"], stage="generate_images")
        (own,) = drawn.read(drawn.rows([line["image_id"]]))
        (other,) = store.read(store.rows([line["nearest_id"]]))
        found.append((jpeg_uri(own), jpeg_uri(other), f"{line['distance']:.1f}"))
    return found
