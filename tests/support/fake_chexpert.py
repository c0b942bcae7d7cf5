"""A tiny copy of CheXpert in its official layout."""

import csv
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fake_files import image_file, pixels, put, settings

LABELS = [
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
]


@dataclass
class FakeChexpert:
    """Rows of train.csv and valid.csv; `write` puts them and their images on disk."""

    root: Path
    prefix: str = "CheXpert-v1.0-small/"
    rows: dict[str, list[dict]] = field(default_factory=lambda: {"train": [], "valid": []})

    def add(self, patient, *, split="train", study=1, side="Frontal", view="PA", **labels) -> Path:
        name = f"{split}/patient{patient:05}/study{study}/view1_{side.lower()}.jpg"
        row = {"Path": self.prefix + name, "Sex": "Female", "Age": 60, "Frontal/Lateral": side, "AP/PA": view}
        self.rows[split].append(
            row | {label: labels.get(label.lower().replace(" ", "_"), "") for label in LABELS}
        )
        return put(self.root / name, image_file(pixels(name), "JPEG"))

    def write(self) -> None:
        for split, rows in self.rows.items():
            with (self.root / f"{split}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list((rows or self.rows["train"])[0]))
                writer.writeheader()
                writer.writerows(rows)

    def settings(self, **changes):
        values = {"views": ("PA", "AP"), "split_fractions": (0.9, 0.1, 0.0)}
        return settings("chexpert", self.root, "train.csv", split_file="valid.csv", **{**values, **changes})
