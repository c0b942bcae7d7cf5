"""Write phantom studies in the layout of MIMIC-CXR-JPG 2.0.0 and MIMIC-CXR.

Study ids are hashes of the report: another report changes the index files, on which later stages depend. Layout:
https://physionet.org/content/mimic-cxr-jpg/2.0.0/ and https://physionet.org/content/mimic-cxr/2.0.0/.
"""

import csv
import datetime
import gzip
import hashlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.phantom.findings import FINDINGS
from medunifier.phantom.report_files import EXAMINATIONS
from medunifier.phantom.studies import DECUBITUS, FRONTAL, Radiograph, Study

METADATA = [
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
]
SPLIT = ["dicom_id", "study_id", "subject_id", "split"]
LABELS = [
    "subject_id",
    "study_id",
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
]
SPLIT_SHARES = {"validate": 0.08, "test": 0.12}  # of the patients; the rest trains
VIEW_MEANINGS = {
    "PA": "postero-anterior",
    "AP": "antero-posterior",
    "LATERAL": "lateral",
    "LL": "left lateral",
}


class MimicWriter:
    """Write the patients one by one, then the index files.

    Attributes:
        images: root of the JPG tree and of the index files.
        reports: root of the report tree.
        counts: numbers of patients, studies, images, ... written so far.
    """

    def __init__(self, root: Path, patients: int, image_size: int, seed: int):
        """Draw the ids and splits of `patients` patients; files go below `root`."""
        self.images, self.reports = root / "mimic-cxr-jpg", root / "mimic-cxr"
        self.counts = Counter({f"studies_{name}": 0 for name in FINDINGS})
        self._root, self._image_size = root, image_size
        self._rng = np.random.default_rng([*b"layout", seed])
        self._subjects = iter(self._rng.choice(9_999_999, patients, replace=False) + 10_000_000)
        self._splits = iter(self._rng.permutation(_split_names(patients)))
        self._study_ids: set[int] = set()
        self._metadata: list[dict] = []
        self._split: list[dict] = []
        self._labels: list[dict] = []
        self._truth: list[dict] = []
        self._checksums: dict[str, str] = {}  # path below the JPG root -> SHA-256

    def add_patient(self, studies: tuple[Study, ...]) -> None:
        """Write all images and reports of the next patient."""
        subject, split = int(next(self._subjects)), str(next(self._splits))
        self.counts["patients"] += 1
        day = datetime.date(2110, 1, 1) + datetime.timedelta(days=int(self._rng.integers(0, 30_000)))
        for study in studies:
            day += datetime.timedelta(days=int(self._rng.integers(1, 400)))
            clock = [int(self._rng.integers(0, limit)) for limit in (24, 60, 60, 1000)]
            when = {"StudyDate": day.strftime("%Y%m%d"), "StudyTime": "{:02}{:02}{:02}.{:03}".format(*clock)}
            self._add_study(study, subject, split, when)

    def _add_study(self, study: Study, subject: int, split: str, when: dict[str, str]) -> None:
        """Write report and images of one study."""
        study_id = self._new_study_id(f"{subject}\n{study.report.text}")
        folder = f"files/p{str(subject)[:2]}/p{subject}"
        report = self.reports / folder / f"s{study_id}.txt"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(study.report.text, encoding="utf-8")
        self.counts["studies"] += 1
        ids = {"subject_id": subject, "study_id": study_id}
        if study.report.labels is not None:
            self._labels.append(ids | {name: f"{value:.1f}" for name, value in study.report.labels.items()})
        self.counts.update(f"studies_{finding.name}" for finding in study.facts.findings)
        self.counts["studies_without_finding"] += not study.facts.findings
        self.counts["studies_without_findings_section"] += study.report.findings is None
        self.counts["studies_without_impression_section"] += study.report.impression is None
        examination = EXAMINATIONS[study.facts.portable]
        for number, radiograph in enumerate(study.radiographs):
            # Not from the pixels, whose last bit differs between processors: a seed gives the same names everywhere.
            dicom_id = _dicom_id(f"{study_id} {number}")
            self._write_image(f"{folder}/s{study_id}/{dicom_id}.jpg", radiograph)
            row = {"dicom_id": dicom_id, **ids}
            self._split.append(row | {"split": split})
            self._metadata.append(row | when | _about(radiograph.view, examination, self._image_size))
            self._truth.append(_truth(study, radiograph, dicom_id, study_id, subject))

    def _write_image(self, name: str, radiograph: Radiograph) -> None:
        """Write one image, and remember its checksum."""
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(radiograph.jpg)
        self._checksums[name] = hashlib.sha256(radiograph.jpg).hexdigest()
        self.counts["images"] += 1
        self.counts["images_frontal"] += radiograph.view in FRONTAL

    def _new_study_id(self, content: str) -> int:
        """Return an unused number 5xxxxxxx, derived from the content."""
        number = int(hashlib.sha256(content.encode()).hexdigest(), 16) % 10_000_000
        while number in self._study_ids:
            number = (number + 1) % 10_000_000
        self._study_ids.add(number)
        return 50_000_000 + number

    def write_indexes(self) -> None:
        """Write the four CSV files, SHA256SUMS.txt (of the undamaged files) and truth.parquet."""
        for name, columns, rows in (
            ("metadata", METADATA, self._metadata),
            ("split", SPLIT, self._split),
            ("chexpert", LABELS, self._labels),
            # The phantom's reports are unambiguous: both labelers agree.
            ("negbio", LABELS, self._labels),
        ):
            rows = sorted(rows, key=lambda row: (row["subject_id"], row["study_id"], row.get("dicom_id")))
            path = self.images / f"mimic-cxr-2.0.0-{name}.csv.gz"
            path.write_bytes(_gzipped_csv(columns, rows))
            self._checksums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        lines = [f"{checksum} {name}\n" for name, checksum in sorted(self._checksums.items())]
        (self.images / "SHA256SUMS.txt").write_text("".join(lines), encoding="utf-8")
        pl.DataFrame(self._truth).sort("image_id").write_parquet(self._root / "truth.parquet")


def _split_names(patients: int) -> list[str]:
    """Return one split for each patient, about in the official proportions."""
    names = [name for name, share in SPLIT_SHARES.items() for _ in range(round(share * patients))]
    return names + ["train"] * (patients - len(names))


def _dicom_id(content: str) -> str:
    """Return a name of the official form: five groups of eight hexadecimal digits."""
    digits = hashlib.sha256(content.encode()).hexdigest()
    return "-".join(digits[start : start + 8] for start in range(0, 40, 8))


def _about(view: str, examination: str, image_size: int) -> dict[str, str | int]:
    """Return the descriptive columns of the metadata."""
    lying = examination.endswith("AP)") or view in DECUBITUS
    return {
        "PerformedProcedureStepDescription": examination,
        "ViewPosition": view,
        "Rows": image_size,
        "Columns": image_size,
        "ProcedureCodeSequence_CodeMeaning": examination,
        "ViewCodeSequence_CodeMeaning": VIEW_MEANINGS.get(view, ""),
        "PatientOrientationCodeSequence_CodeMeaning": "Recumbent" if lying else "Erect",
    }


def _truth(
    study: Study, radiograph: Radiograph, dicom_id: str, study_id: int, subject: int
) -> dict[str, str | int | bool]:
    """Return what an image shows: severity (0 absent, 1 to 3), side, zone and certainty of each finding."""
    row: dict[str, str | int | bool] = {
        "image_id": dicom_id,
        "study_id": str(study_id),
        "patient_id": str(subject),
        "view": radiograph.view,
    }
    present = {finding.name: finding for finding in study.facts.findings}
    for name in FINDINGS:
        finding = present.get(name)
        row[name] = finding.severity if finding else 0
        row[f"{name}_side"] = finding.side if finding else "none"
        row[f"{name}_zone"] = finding.zone if finding else "none"
        row[f"{name}_certain"] = finding.certain if finding else True
    anatomy = study.facts.anatomy
    row |= {"volume": anatomy.volume, "tortuous_aorta": anatomy.tortuous_aorta}
    return row | {
        "scoliosis": bool(anatomy.scoliosis),
        "device": study.facts.device,
        "report_form": study.report.form,
    }


def _gzipped_csv(columns: list[str], rows: list[dict]) -> bytes:
    """Return a CSV file, gzipped without a time stamp; a missing value is blank."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return gzip.compress(text.getvalue().encode(), mtime=0)
