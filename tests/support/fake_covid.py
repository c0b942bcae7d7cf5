"""A tiny copy of the covid-chestxray-dataset in its official layout."""

from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fake_files import image_file, pixels, put
from tests.support.fake_mimic import write_csv


@dataclass
class FakeCovid:
    """Rows of metadata.csv; images (JPEG or PNG, by their name) are written at once, the list by `write`."""

    root: Path
    rows: list[dict] = field(default_factory=list)

    def add(self, patient: str, file: str, **changes) -> Path:
        row = {
            "patientid": patient, "offset": "0", "sex": "F", "age": "60", "finding": "Pneumonia/Viral/COVID-19",
            "view": "PA", "modality": "X-ray", "date": "2020", "location": "", "folder": "images", "filename": file,
            "doi": "", "url": "", "license": "CC BY", "clinical_notes": f"Notes on {file}.", "other_notes": "",
        }  # fmt: skip
        self.rows.append(row | changes)
        kind = "PNG" if file.endswith(".png") else "JPEG"
        return put(self.root / self.rows[-1]["folder"] / file, image_file(pixels(file, 300), kind))

    def write(self) -> None:
        write_csv(self.root / "metadata.csv", self.rows)
