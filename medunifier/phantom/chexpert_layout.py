"""A phantom CheXpert-v1.0-small: train.csv, valid.csv, {train,valid}/patientNNNNN/studyN/viewN_SIDE.jpg."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medunifier.phantom.report_files import write_report
from medunifier.phantom.shots import OTHERS, digest_of, jpeg, take_shot

FOLDER = "CheXpert-v1.0-small"
LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
    "Fracture", "Support Devices",
)  # fmt: skip
HEADER = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS)
NORMAL, SEVERAL, UNCERTAIN = 0.12, 0.08, 0.06  # shares; the rest has exactly one of the five findings
LATERAL, MISNAMED = 0.03, 0.01  # shares; misnamed: a lateral view that the index calls frontal
VALID = 0.12  # share of the patients that are in valid.csv


@dataclass(frozen=True)
class Item:
    """One image on its way to disk."""

    jpg: bytes
    side: str  # Frontal or Lateral, as the index says
    view: str  # AP, PA, LL, or blank for a lateral one
    labels: dict[str, int]


def draw(number: int, seed: int, image_size: int) -> Item:
    """Image `number`, of a patient of its own."""
    key = (*b"chexpert", seed, number)
    rng = np.random.default_rng(key)
    kind, side = rng.random(2)
    names = rng.choice(OTHERS, 2 if kind < NORMAL + SEVERAL else 1, replace=False)
    lateral = side < LATERAL + MISNAMED
    shot = take_shot(
        rng, key, () if kind < NORMAL else tuple(map(str, names)), image_size, "LL" * bool(lateral)
    )
    labels = write_report(shot.facts, rng).labels or {}
    labels = {
        name: -1 if value == 1 and rng.random() < UNCERTAIN else value for name, value in labels.items()
    }
    if not lateral:
        return Item(jpeg(shot.film), "Frontal", shot.view, labels)
    return Item(jpeg(shot.film), *(("Frontal", "LL") if side < MISNAMED else ("Lateral", "")), labels)


def write(root: Path, items: Iterable[Item], seed: int) -> list[Path]:
    """Write all images and both index files below `root`; returns the images' paths.

    Every fifth patient has a second study, the next image. Patient numbers follow from those of the images.
    """
    rng = np.random.default_rng([*b"chexpert", seed])
    rows: dict[str, list[dict]] = {"train": [], "valid": []}
    paths, taken = [], set()
    for number, item in enumerate(items):
        if number % 6 != 5:  # the sixth image is the fifth patient's second study
            patient = int(digest_of((*b"chexpert", seed, number))[:8], 16) % 100_000
            while patient in taken:
                patient = (patient + 1) % 100_000
            taken.add(patient)
            split, study = "valid" if rng.random() < VALID else "train", 1
            sex, age = str(rng.choice(("Female", "Male"))), int(rng.integers(18, 91))
        else:
            study = 2
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
