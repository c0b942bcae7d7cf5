"""A tiny copy of MIMIC-CXR-JPG and its reports in the official layout, which tests modify as needed."""

import csv
import gzip
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from medunifier.runtime.params import Benchmark, Dataset, Index

LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
    "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia",
    "Pneumothorax", "Support Devices",
)  # fmt: skip
HEAD = "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n"
BOTH = HEAD + " FINDINGS:  The heart is\n normal.\n \n IMPRESSION:  No acute disease.\n"


@dataclass
class FakeMimic:
    """Rows of the index files as lists of dicts; `write` puts them, the images and the reports on disk."""

    folder: Path
    metadata: list[dict] = field(default_factory=list)
    split: list[dict] = field(default_factory=list)
    chexpert: list[dict] = field(default_factory=list)
    reports: dict[Path, bytes] = field(default_factory=dict)
    images: dict[Path, bytes] = field(default_factory=dict)

    def add(self, dicom, patient, study, *, view="PA", split="train", report=BOTH, **labels) -> Path:
        """One image; a study's labels and report come with its first. Returns the image's path."""
        ids = {"subject_id": patient, "study_id": study}
        self.metadata.append({"dicom_id": dicom, **ids, "ViewPosition": view, "Rows": 8, "Columns": 8})
        self.split.append({"dicom_id": dicom, "study_id": study, "subject_id": patient, "split": split})
        if not any(row["study_id"] == study for row in self.chexpert):
            values = {name: labels.get(name.lower().replace(" ", "_"), "") for name in LABELS}
            self.chexpert.append({**ids, **values})
            text = report if isinstance(report, bytes) else report.encode()
            self.reports[self.report_path(patient, study)] = text
        path = self.root / f"files/p{patient[:2]}/p{patient}/s{study}/{dicom}.jpg"
        self.images[path] = jpeg(dicom)
        return path

    def report_path(self, patient, study) -> Path:
        return self.folder / "mimic-cxr" / f"files/p{patient[:2]}/p{patient}/s{study}.txt"

    @property
    def root(self) -> Path:
        return self.folder / "mimic-cxr-jpg"

    def write(self) -> None:
        for path, content in {**self.reports, **self.images}.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for name in ("metadata", "split", "chexpert"):
            write_csv(self.root / f"mimic-cxr-2.0.0-{name}.csv.gz", getattr(self, name))
        sums = (
            f"{hashlib.sha256(content).hexdigest()} {path.relative_to(self.root)}\n"
            for path, content in self.images.items()
        )
        (self.root / "SHA256SUMS.txt").write_text("".join(sums))

    def settings(self, **changes) -> Dataset:
        values = {
            "layout": "mimic_cxr",
            "root": str(self.root),
            "reports": str(self.folder / "mimic-cxr"),
            "index": Index(
                images="mimic-cxr-2.0.0-metadata.csv.gz",
                labels="mimic-cxr-2.0.0-chexpert.csv.gz",
                split="mimic-cxr-2.0.0-split.csv.gz",
                checksums="SHA256SUMS.txt",
                lists="SHA256SUMS.txt",
            ),
            "views": ("PA", "AP"),
            "sections": "both",
            "section_order": "findings_first",
            "split": "official",
            "split_fractions": (0.8, 0.1, 0.1),
            "benchmark": None,
        }
        return Dataset(**{**values, **changes})


def benchmark(**changes) -> Benchmark:
    values = {"classes": ("atelectasis", "edema"), "per_class": 2, "rule": "strict"}
    values |= {"pool": "train", "remove": "patients"}
    return Benchmark(**{**values, **changes})


def write_csv(path: Path, rows: list[dict]) -> None:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def jpeg(seed: str) -> bytes:
    random = np.random.default_rng(list(seed.encode()))
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (48, 40), dtype=np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
