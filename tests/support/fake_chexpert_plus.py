"""A tiny copy of CheXpert Plus: its table with multi-line reports, CheXbert's labels, PNG files."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.entries import entry
from tests.support.fake_chexpert import LABELS as CHEXPERT_LABELS
from tests.support.fake_files import put
from tests.support.phantom_images import png

TABLE = "df_chexpert_plus_240401.csv"
LABELS = "impression_fixed.json"
# The header of the release, in its order.
COLUMNS = [
    "path_to_image",
    "path_to_dcm",
    "frontal_lateral",
    "ap_pa",
    "deid_patient_id",
    "patient_report_date_order",
    "report",
    "section_narrative",
    "section_clinical_history",
    "section_history",
    "section_comparison",
    "section_technique",
    "section_procedure_comments",
    "section_findings",
    "section_impression",
    "section_end_of_impression",
    "section_summary",
    "section_accession_number",
    "age",
    "sex",
    "race",
    "ethnicity",
    "interpreter_needed",
    "insurance_type",
    "recent_bmi",
    "deceased",
    "split",
]
FINDINGS = [*CHEXPERT_LABELS[1:], CHEXPERT_LABELS[0]]  # CheXbert lists "No Finding" last


@dataclass
class FakeChexpertPlus:
    """Rows of the table and of the labels; `write` puts them on disk, images are written at once."""

    root: Path
    folder: str = "PNG"
    rows: list[dict[str, str]] = field(default_factory=list)
    labels: list[dict] = field(default_factory=list)

    def add(
        self,
        patient,
        *,
        study=1,
        view=1,
        side="frontal",
        split="train",
        ap="AP",
        findings="",
        impression="",
        **labels,
    ):
        stem = f"{split}/patient{patient:05}/study{study}/view{view}_{side}"
        row = dict.fromkeys(COLUMNS, "") | {
            "path_to_image": f"{stem}.jpg",
            "path_to_dcm": f"{stem}.dcm",
            "frontal_lateral": side.title(),
            "ap_pa": ap,
            "deid_patient_id": f"patient{patient:05}",
            "report": f"NARRATIVE:\nRADIOGRAPHIC EXAMINATION\n\nIMPRESSION:\n{impression}",
            "section_findings": findings,
            "section_impression": impression,
            "split": split,
        }
        self.rows.append(row)
        values = {label: labels.get(label.lower().replace(" ", "_")) for label in FINDINGS}
        self.labels.append({"path_to_image": row["path_to_image"], **values})
        return put(self.root / self.folder / f"{stem}.png", png(len(self.rows)))

    def write(self) -> None:
        with (self.root / TABLE).open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        put(self.root / LABELS, "".join(json.dumps(row) + "\n" for row in self.labels))

    def settings(self, **changes):
        return entry("chexpert-plus", self.root, **changes)
