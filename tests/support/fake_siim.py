"""A tiny copy of the SIIM-ACR pneumothorax challenge in its official layout."""

from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fake_files import dicom_file, image_file, pixels, put, settings


@dataclass
class FakeSiim:
    """Rows of train-rle.csv; images are written at once, the list by `write`."""

    root: Path
    header: str = "ImageId, EncodedPixels"
    rows: list[tuple[str, str]] = field(default_factory=list)

    def add(self, image: str, *masks: str, view: str = "PA") -> Path:
        self.rows += [(image, mask) for mask in masks or (" -1",)]
        path = self.root / f"dicom-images-train/study-{image}/series-{image}/{image}.dcm"
        return put(path, dicom_file(pixels(image), image_file(pixels(image), "JPEG"), ViewPosition=view))

    def write(self) -> None:
        put(self.root / "train-rle.csv", "\n".join([self.header, *map(",".join, self.rows)]) + "\n")

    def settings(self, **changes):
        return settings("siim_acr", self.root, "train-rle.csv", **changes)
