"""A tiny copy of VinDr-CXR: three readers' rows for each training image, one row for each test image, DICOM files."""

from dataclasses import dataclass, field
from pathlib import Path

from medunifier.data.layouts.vindr_cxr import LABELS
from tests.support.entries import entry
from tests.support.fake_files import put
from tests.support.fake_padchest import as_csv
from tests.support.phantom_images import dicom


@dataclass
class FakeVindr:
    """Rows of both tables; images are written at once, the tables by `write`."""

    root: Path
    rows: dict[str, list[dict]] = field(default_factory=lambda: {"train": [], "test": []})

    def add(self, number, split="train", *readers: dict, suffix=".dicom") -> Path:
        """Add an image; each of `readers` maps labels to values, all others are 0."""
        image = f"{number:032x}"
        readers = readers or ({},) * (3 if split == "train" else 1)
        for reader, given in enumerate(readers, 8):
            ids = {"image_id": image} | ({"rad_id": f"R{reader}"} if split == "train" else {})
            self.rows[split].append(ids | dict.fromkeys(LABELS, 0) | given)
        return put(self.root / split / f"{image}{suffix}", dicom(number))

    def write(self) -> None:
        for split, rows in self.rows.items():
            text = as_csv(list(rows[0]), rows)
            text = text.replace("Other diseases", "Other disease") if split == "test" else text
            put(self.root / f"annotations/image_labels_{split}.csv", text)

    def settings(self, **changes):
        return entry("vindr-cxr", self.root, **changes)
