"""The page's section on generated images.

Table 5's rows, prompt fidelity, Figure 3, prompts, strips of prompts and nearest training images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medunifier.report.images import jpeg_uri
from medunifier.report.sections import withheld
from medunifier.report.tables import Metrics, Row, present, row
from medunifier.storage.image_shards import ImageStore, TargetImages
from medunifier.storage.tables import read_table
from medunifier.synthesis.generated_sets import TABLE, read_generated_set

SAMPLES = 4  # images shown of each prompt
PAIRS = 6  # images shown beside the training image that is nearest to them
COMPARED = {
    "validation": "validation images",
    "reconstruction": "{} images, reconstructed",
    "synthetic": "generated without a text (as the paper)",
    "reports": "generated from test reports",
}
SETS = {
    "validation": "validation images",
    "reconstruction": "test images, reconstructed",
    "unconditional": "generated without a text",
    "reports": "generated from test reports",
    "prompts": "generated from prompts",
    "strips": "generated from strips of prompts",
}
QUANTILES = (0.0, 0.05, 0.5, 0.95)  # of the distances to the nearest training image


class Nearest:
    """The training image nearest to each generated one, as score_images found it.

    Args:
        path: nearest.parquet of score_images.
        store: the data set's images; None: they are private, and none is shown.
    """

    def __init__(self, path: Path, store: ImageStore | None):
        self.table, self.store = read_table(path), store

    def of(self, name: str, ids: Sequence[str]) -> list[tuple[str, str]]:
        """Return (training image, distance) of these images of a set, in their order."""
        if self.store is None:
            return []
        rows = pl.DataFrame({"image_id": ids}).join(
            self.table.filter(set=name), on="image_id", how="inner", maintain_order="left"
        )
        images = halved(self.store.read(self.store.rows(rows["nearest_id"])))
        return [(jpeg_uri(p, 75), f"{d:.1f}") for p, d in zip(images, rows["distance"], strict=True)]


def generated_section(
    variant: str, dataset: str, metrics: Metrics, reconstructed: str, *, private: bool
) -> dict[str, Any] | None:
    """Return what generated.html shows of one variant, or None where no image has been generated.

    `reconstructed` is the split whose reconstructions Table 5 compares. Reads data/generated/VARIANT,
    results/images/VARIANT and, unless it is private, data/images/DATASET.
    """
    root, results = Path("data/generated") / variant, Path("results/images") / variant
    if not (root / "unconditional" / TABLE).is_file():
        return None
    store = None if private else TargetImages(Path("data/images") / dataset)
    nearest = Nearest(results / "nearest.parquet", store)
    return {
        "heading": f"Variant {variant} on {dataset}",
        "distances": distance_rows(metrics, reconstructed),
        "fidelity": fidelity_rows(metrics),
        "findings": finding_rows(metrics),
        "diversity": diversity_rows(metrics),
        "nearest": nearest_rows(nearest.table, metrics),
        "figure": figure_lines(results / "figure_3.png", root, nearest),
        "prompts": prompt_lines(root / "prompts", nearest),
        "strips": strip_lines(root / "strips", nearest),
        "withheld": withheld(dataset, "Originals, reconstructions and nearest training images", f"{results}/")
        if private
        else "",
        "pairs": nearest_pairs(nearest, root),
    }


def distance_rows(metrics: Metrics, reconstructed: str) -> list[tuple[str, int, list[float | None]]]:
    """Return (set, images, [Fréchet distance, kernel distance, precision, recall, FID, KID]) of each compared set."""
    found = []
    for name, label in COMPARED.items():
        if f"fd_vit_{name}" in metrics:
            keys = ("fd_vit", "kd_vit", "precision_vit", "recall_vit", "fid", "kid")
            values = [metrics.get(f"{key}_{name}") for key in keys]
            of = {"train": "training", "test": "test"}[reconstructed]
            found.append((label.format(of), int(metrics[f"fd_vit_{name}_n"]), values))
    return found


def fidelity_rows(metrics: Metrics) -> list[tuple[Row, Row | None, float | None, Row | None]]:
    """Return (value from prompts, the same on unconditional images, chance, the classifier on test images)."""
    found = []
    for name, label, real in (
        ("prompt_fidelity", "the prompted finding", "judge_accuracy"),
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
    """Return (finding, how often it is found when prompted, the classifier's AUROC for it on test images)."""
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
    """Return MS-SSIM between samples of one prompt, and between different images of the data set."""
    return present(
        [
            row(metrics, "ms_ssim_prompt", "samples of one prompt", digits=3),
            row(metrics, "ms_ssim_real", "different images of the data set", digits=3),
        ]
    )


def nearest_rows(table: pl.DataFrame, metrics: Metrics) -> list[tuple[str, list[float], float | None]]:
    """Return (set, `QUANTILES` of the distances to the nearest training image, percent suspiciously near)."""
    found = []
    for name, label in SETS.items():
        distances = table.filter(set=name)["distance"].to_numpy()
        if len(distances):
            share = metrics.get(f"nearest_{name}_suspicious")
            found.append((label, np.quantile(distances, QUANTILES).tolist(), share))
    return found


def figure_lines(path: Path, root: Path, nearest: Nearest) -> list[tuple[str, list[str], list]]:
    """Return (what it shows, images, `Nearest.of` generated ones) of each line of figure 3."""
    from PIL import Image

    with Image.open(path) as image:
        grid = np.asarray(image.convert("L"))
    size = ImageStore(root / "unconditional").height
    lines = grid.reshape(grid.shape[0] // size, size, grid.shape[1] // size, size).swapaxes(1, 2)
    shown = {
        "original": None,
        "reconstructed": None,
        "generated from their reports": "reports",
        "generated without a text": "unconditional",
    }
    if len(lines) < len(shown):
        del shown["generated from their reports"]
    found = []
    for (label, name), line in zip(shown.items(), lines, strict=True):
        if name is None and nearest.store is None:
            continue
        ids = read_generated_set(root / name)[0]["image_id"][: len(line)].to_list() if name else []
        found.append((label, [jpeg_uri(tile) for tile in line], nearest.of(name, ids) if name else []))
    return found


def prompt_lines(folder: Path, nearest: Nearest) -> list[tuple[str, list[str], list]]:
    """Return (prompt, images, `Nearest.of` them) of each prompt; nothing where the set was not generated."""
    return [
        (
            part["prompt"][0],
            [jpeg_uri(p) for p in images],
            nearest.of(folder.name, part["image_id"].to_list()),
        )
        for part, images in _rows(folder, SAMPLES)
    ]


def strip_lines(folder: Path, nearest: Nearest) -> list[tuple[str, list[tuple[str, str]], list]]:
    """Return (sentence with a blank, [(word, image)], `Nearest.of` the images) of each strip."""
    found = []
    for part, images in _rows(folder):
        split = [prompt.split() for prompt in part["prompt"]]
        start = _shared(split, 1)
        end = _shared([words[::-1] for words in split], start + 1)
        words = [" ".join(words[start : len(words) - end]) for words in split]
        stop = "." * all(word.endswith(".") for word in words)
        sentence = " ".join([*split[0][:start], "…" + stop, *split[0][len(split[0]) - end :]])
        words = [word.removesuffix(stop) for word in words]
        shown = [(word, jpeg_uri(image)) for word, image in zip(words, images, strict=True)]
        found.append((sentence, shown, nearest.of(folder.name, part["image_id"].to_list())))
    return found


def _rows(folder: Path, most: int | None = None) -> list[tuple[pl.DataFrame, np.ndarray]]:
    """Rows of the table and images, half as fine as they are, by the column `row`; the first `most` of each."""
    if not (folder / TABLE).is_file():
        return []
    table, store = read_generated_set(folder)
    parts = [part[:most] for _, part in table.group_by("row", maintain_order=True)]
    return [(part, halved(store.read(store.rows(part["image_id"])))) for part in parts]


def halved(images: np.ndarray) -> np.ndarray:
    """Return means of 2 x 2 pixels, uint8 [n, H, W] -> [n, H // 2, W // 2]."""
    n, height, width = images.shape
    parts = images.reshape(n, height // 2, 2, width // 2, 2)
    return parts.mean((2, 4), dtype=np.float32).round().astype(np.uint8)


def _shared(lists: Sequence[Sequence[str]], rest: int) -> int:
    """How many first words all lists share, the last `rest` of the shortest aside."""
    count = 0
    while count + rest < min(map(len, lists)) and len({words[count] for words in lists}) == 1:
        count += 1
    return count


def nearest_pairs(nearest: Nearest, root: Path) -> list[tuple[str, str, str]]:
    """Return (generated image, its nearest training image, distance) of the images nearest to training images."""
    if nearest.store is None:
        return []
    generated_sets = [name for name in SETS if (root / name / TABLE).is_file()]
    table = nearest.table.filter(pl.col("set").is_in(generated_sets))
    found = []
    for line in table.sort("distance", "image_id")[:PAIRS].iter_rows(named=True):
        generated = ImageStore(root / line["set"], stage="generate_images")
        (own,) = generated.read(generated.rows([line["image_id"]]))
        (other,) = nearest.store.read(nearest.store.rows([line["nearest_id"]]))
        found.append((jpeg_uri(own), jpeg_uri(other), f"{line['distance']:.1f}"))
    return found
