"""Read what the stages left in results/ and data/ for the report page; missing files are named with their stage."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from medunifier.data.preparation.rejects import Reason
from medunifier.report import sections
from medunifier.report.images import grid_pairs, jpeg_uri, mark_shared
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import regular_file
from medunifier.runtime.json_files import read_json_object, read_numbers
from medunifier.runtime.params import Params
from medunifier.storage.image_shards import TargetImages
from medunifier.storage.tables import read_table

SAMPLES = 6  # generated reports shown for each data set


def read_data(name: str, params: Params) -> dict[str, Any]:
    """Return the counts of one data set, as `sections.data_section` shows them.

    Raises:
        InputError: the counts of prepare or decode_images do not add up.
    """
    prepared = read_json(Path("data/prepared") / name / "summary.json", f"prepare@{name}")
    decoded = read_json(Path("data/images") / name / "summary.json", f"decode_images@{name}")
    kept = sum(prepared["kept"].values())
    for stage, whole, parts in (
        ("prepare", prepared["raw"], kept + sum(prepared["rejected"].values())),
        ("decode_images", kept, decoded["decoded"] + sum(decoded["rejected"].values())),
    ):
        if whole != parts:
            raise InputError(
                f"{stage}@{name}: {whole} images came in, {parts} are kept or rejected; run the stage again"
            )
    benchmark = params.datasets[name].benchmark
    separate = benchmark is None or benchmark.remove == "patients"
    meanings = {reason.value: reason.explanation for reason in Reason}
    undecoded = count_undecoded(name, "benchmark") if benchmark is not None else 0
    return sections.data_section(name, prepared, decoded, meanings, separate, undecoded)


def count_undecoded(name: str, split: str) -> int:
    """Return how many images of a split of data set `name` could not be decoded."""
    ids = read_table(Path("data/prepared") / name / f"{split}.parquet")["image_id"]
    decoded = read_table(Path("data/images") / name / "contents.parquet")["image_id"]
    return len(set(ids) - set(decoded))


def read_training(variant: str, params: Params) -> dict[str, Any]:
    """Return the training section of one variant: its curves and validation losses."""
    path = Path("results/curves") / f"pretrain@{variant}.csv"
    with open_result(path, f"pretrain@{variant}") as file:
        curve = [
            {"step": int(row["step"]), "split": row["split"]}
            | {key: float(text) for key, text in row.items() if key not in ("step", "split") and text}
            for row in csv.DictReader(file)
        ]
    return sections.training_section(
        variant,
        params.variants[variant].weights,
        read_metrics(f"pretrain@{variant}"),
        curve,
        vars(params.pretrain),
    )


def read_samples(variant: str, dataset: str) -> list[dict[str, Any]]:
    """Return generated reports beside their references and images, evenly spaced through the predictions."""
    table = read_table(Path("results/reports") / f"{variant}-{dataset}" / "predictions.parquet")
    number = min(SAMPLES, len(table))
    chosen = table[[(2 * i + 1) * len(table) // (2 * number) for i in range(number)]]
    store = TargetImages(Path("data/images") / dataset)
    images = store.read(store.rows(chosen["image_id"].to_list()))
    samples = []
    for sample, image in zip(chosen.iter_rows(named=True), images, strict=True):
        reference, prediction = mark_shared(sample["reference"], sample["prediction"])
        samples.append(
            {
                "image_id": sample["image_id"],
                "image": jpeg_uri(image),
                "reference": reference,
                "prediction": prediction,
            }
        )
    return samples


def read_pairs(variant: str, size: int) -> list[tuple[str, str, str]]:
    """Return (test image, its reconstruction, PSNR) from the grid of score_images, images as data URIs."""
    folder = Path("results/images") / variant
    pairs = grid_pairs(folder / "reconstructions.png", size)
    psnr = read_table(folder / "scores.parquet")["psnr"].to_list()
    return [
        (jpeg_uri(original), jpeg_uri(reconstruction), f"{value:.1f} dB")
        # the grid shows the first of the table
        for (original, reconstruction), value in zip(pairs, psnr, strict=False)
    ]


def read_metrics(stage: str) -> Mapping[str, float]:
    """Return the flat metrics of a stage.

    Raises:
        InputError: the file is missing or broken, or a metric is no finite number.
    """
    return read_numbers(Path("results/metrics") / f"{stage}.json", _made_by(stage))


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """Return the content of a JSON file that `stage` has left.

    Raises:
        InputError: the file is missing or broken.
    """
    return read_json_object(path, _made_by(stage))


def open_result(path: Path, stage: str) -> TextIO:
    """Open a text file that `stage` has left.

    Raises:
        InputError: the file is missing.
    """
    return regular_file(path, _made_by(stage)).open(encoding="utf-8", newline="")


def _made_by(stage: str) -> str:
    return f"it is made by the stage {stage}: dvc repro {stage}"
