"""A tiny copy of NIH ChestX-ray14 in its official layout, of either version."""

from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fake_files import image_file, pixels, put, settings

# The header as published: the last two names hold a comma each, and the line ends in one, as every row does.
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,{sex},View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
INDEX = "Data_Entry_2017_v2020.csv"


@dataclass
class FakeNih:
    """Rows of the index; images are written at once, the index and the lists by `write`."""

    root: Path
    sex: str = "Patient Gender"
    index: str = INDEX
    rows: list[str] = field(default_factory=list)
    tested: list[str] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)

    def add(
        self,
        patient: int,
        number: int = 0,
        findings: str = "No Finding",
        *,
        age: str = "58",
        sex: str = "M",
        view: str = "PA",
        test: bool = False,
        folder: str = "images_001/images",
        patient_id: str | None = None,
    ) -> Path:
        name = f"{patient:08}_{number:03}.png"
        listed = patient if patient_id is None else patient_id
        self.rows.append(f"{name},{findings},{number},{listed},{age},{sex},{view},2682,2749,0.143,0.143,")
        (self.tested if test else self.trained).append(name)
        return put(self.root / folder / name, image_file(pixels(name), "PNG"))

    def write(self) -> None:
        lines = [HEADER.format(sex=self.sex), *self.rows]
        put(self.root / self.index, "\n".join(lines) + "\n")
        put(self.root / "test_list.txt", "\r\n".join(self.tested))  # as published: no line end at the end
        put(self.root / "train_val_list.txt", "\n".join(self.trained) + "\n")

    def settings(self, **changes):
        values = {"split_fractions": (0.7, 0.3, 0.0)}
        return settings(
            "nih_chestxray14", self.root, self.index, split_file="test_list.txt", **{**values, **changes}
        )
