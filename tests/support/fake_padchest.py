"""Tiny copies of PadChest and PadChest-GR, with PNG files of 16 bits of which 12 are used."""

import csv
import gzip
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.entries import entry
from tests.support.fake_files import put
from tests.support.phantom_images import png_16_bits

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
# Of the table's 35 columns, those that say what an image is; the others describe its acquisition.
COLUMNS = [
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
    "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "ReportID", "Report", "MethodLabel", "Labels",
    "Localizations", "LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS",
]  # fmt: skip


def as_csv(columns, rows) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@dataclass
class FakePadchest:
    """Rows of the table; images are written at once into `images`, the table by `write`."""

    root: Path
    images: str = ""
    rows: list[dict[str, str]] = field(default_factory=list)

    def add(
        self, study, *, patient=None, folder=0, projection="PA", report="sin hallazgos", labels="['normal']"
    ) -> Path:
        name = f"2168401113669640{study}_00-{len(self.rows):03}.png"
        self.rows.append(
            dict.fromkeys(COLUMNS, "")
            | {
                "": str(len(self.rows)),
                "ImageID": name,
                "ImageDir": str(folder),
                "StudyID": f"2168401113669640{study}",
                "PatientID": str(patient or study),
                "Projection": projection,
                "Report": report,
                "Labels": labels,
            }
        )
        return put(self.root / self.images / f"{folder}/{name}", png_16_bits(len(self.rows)))

    def write(self) -> None:
        put(self.root / TABLE, gzip.compress(as_csv(COLUMNS, self.rows).encode(), mtime=0))

    def settings(self, **changes):
        return entry("padchest", self.root, **changes)


@dataclass
class FakePadchestGr:
    """Studies of the JSON file and rows of master_table.csv; images are written at once."""

    root: Path
    folder: str = "Padchest_GR_files/PadChest_GR"
    studies: list[dict] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, number, split="train", *, patient=None, findings=None) -> Path:
        findings = findings or [sentence("No pleural effusion.", abnormal=False)]
        ids = {"StudyID": f"25148803455773233{number}", "ImageID": f"25148803455773233{number}_wigcpj.png"}
        self.studies.append(ids | {"PreviousStudyID": None, "PreviousImageID": None, "findings": findings})
        for finding in findings:
            row = ids | {
                "PatientID": str(patient or number),
                "split": split,
                "sentence_en": finding["sentence_en"],
            }
            self.rows.append(row | {"label": "", "label_group": ""})
        return put(self.root / self.folder / ids["ImageID"], png_16_bits(number))

    def write(self) -> None:
        put(self.root / "grounded_reports_20240819.json", json.dumps(self.studies))
        put(self.root / "master_table.csv", as_csv(list(self.rows[0]), self.rows))

    def settings(self, **changes):
        return entry("padchest-gr", self.root, **changes)


def sentence(english: str, *labels: str, abnormal: bool = True) -> dict:
    """A finding as the JSON file has it: labels and boxes only where it is abnormal."""
    finding = {"sentence_en": english, "sentence_es": f"{english} (es)", "abnormal": abnormal}
    if abnormal:
        finding |= {
            "labels": list(labels),
            "locations": [],
            "boxes": [[0.1, 0.1, 0.4, 0.4]],
            "progression": None,
        }
    return finding
