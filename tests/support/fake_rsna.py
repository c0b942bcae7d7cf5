"""A tiny copy of the RSNA pneumonia challenge in its official layout."""

from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fake_files import dicom_file, image_file, pixels, put, settings

BOX = "264.0,152.0,213.0,379.0"


@dataclass
class FakeRsna:
    """Lines of stage_2_train_labels.csv; images are written at once, the list by `write`."""

    root: Path
    lines: list[str] = field(default_factory=lambda: ["patientId,x,y,width,height,Target"])

    def add(self, patient: str, boxes: int = 0, view: str | None = "PA") -> Path:
        self.lines += [f"{patient},{BOX},1"] * boxes or [f"{patient},,,,,0"]
        tags = {} if view is None else {"ViewPosition": view}
        content = dicom_file(pixels(patient), image_file(pixels(patient), "JPEG"), **tags)
        return put(self.root / f"stage_2_train_images/{patient}.dcm", content)

    def write(self) -> None:
        put(self.root / "stage_2_train_labels.csv", "\n".join(self.lines) + "\n")

    def settings(self, **changes):
        return settings("rsna", self.root, "stage_2_train_labels.csv", **changes)
