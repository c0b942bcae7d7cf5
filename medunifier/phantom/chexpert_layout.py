"""A phantom copy of CheXpert-v1.0-small (Irvin et al. 2019).

Files: train.csv, valid.csv, {train,valid}/patientNNNNN/studyN/viewN_SIDE.jpg.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medunifier.phantom.image_files import digest_of, jpeg
from medunifier.phantom.report_files import write_report
from medunifier.phantom.single_images import OTHERS, generate_image

FOLDER = "CheXpert-v1.0-small"
LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
    "Fracture", "Support Devices",
)  # fmt: skip
HEADER = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS)
NORMAL, SEVERAL, UNCERTAIN = 0.12, 0.08, 0.06  # shares; the rest has exactly one of the five findings
LATERAL, MISLABELED = 0.03, 0.01  # shares; mislabeled: a lateral view that the index calls frontal
VALID = 0.12  # share of the patients in valid.csv


@dataclass(frozen=True)
class Item:
    """One image to write."""

    jpg: bytes
    side: str  # Frontal or Lateral, as the index says
    view: str  # AP, PA, LL, or blank for a lateral one
    labels: dict[str, int]


def generate(number: int, seed: int, image_size: int) -> Item:
    """Generate image `number`, of a patient of its own."""
    key = (*b"chexpert", seed, number)
    rng = np.random.default_rng(key)
    kind, side = rng.random(2)
    names = rng.choice(OTHERS, 2 if kind < NORMAL + SEVERAL else 1, replace=False)
    lateral = side < LATERAL + MISLABELED
    image = generate_image(
        rng, key, () if kind < NORMAL else tuple(map(str, names)), image_size, "LL" if lateral else ""
    )
    labels = write_report(image.facts, rng).labels or {}
    labels = {
        name: -1 if value == 1 and rng.random() < UNCERTAIN else value for name, value in labels.items()
    }
    if not lateral:
        return Item(jpeg(image.pixels), "Frontal", image.view, labels)
    return Item(jpeg(image.pixels), *(("Frontal", "LL") if side < MISLABELED else ("Lateral", "")), labels)


def write(root: Path, items: Iterable[Item], seed: int) -> list[Path]:
    """Write all images and both index files below `root`; return the images' paths.

    The image after every fifth patient is that patient's second study. Patient numbers follow from image numbers.
    """
    rng = np.random.default_rng([*b"chexpert", seed])
    rows: dict[str, list[dict]] = {"train": [], "valid": []}
    paths: list[Path] = []
    taken: set[int] = set()
    patient, split, sex, age = 0, "", "", 0
    for number, item in enumerate(items):
        study = 1 if number % 6 != 5 else 2  # the sixth image is the fifth patient's second study
        if study == 1:
            patient = int(digest_of((*b"chexpert", seed, number))[:8], 16) % 100_000
            while patient in taken:
                patient = (patient + 1) % 100_000
            taken.add(patient)
            split = "valid" if rng.random() < VALID else "train"
            sex, age = str(rng.choice(("Female", "Male"))), int(rng.integers(18, 91))
        name = f"{split}/patient{patient:05}/study{study}/view1_{item.side.lower()}.jpg"
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.jpg)
        paths.append(path)
        values = {label: f"{value:.1f}" for label, value in item.labels.items()}
        about = (f"{FOLDER}/{name}", sex, age, item.side, item.view)
        rows[split].append(dict(zip(HEADER, about, strict=False)) | values)
    for split, listed in rows.items():
        with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, HEADER, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(listed)
    return paths
