"""A tiny copy of ReXGradient-160K: one metadata file a split, several images a study."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.entries import entry
from tests.support.fake_files import put
from tests.support.phantom_images import png

FILE = "metadata/{}_metadata_view_position.json"


@dataclass
class FakeRexgradient:
    """Studies of each file; images are written at once, the files by `write`."""

    root: Path
    studies: dict[str, dict[str, dict]] = field(
        default_factory=lambda: {"train": {}, "valid": {}, "test": {}}
    )

    def add(self, number, split="train", *, views=("PA", "LATERAL"), **fields) -> list[Path]:
        patient, accession, study = f"GRDN{number:04}", f"GRDNACC{number:04}", f"1.2.840.{number}"
        paths = [
            f"deid_png/{patient}/{accession}/studies/{study}/series/{study}.{n}/instances/{study}.{n}.1.png"
            for n in range(len(views))
        ]
        self.studies[split][f"{patient}_{accession}_{number}"] = {
            "PatientID": patient,
            "AccessionNumber": accession,
            "StudyInstanceUid": study,
            "PatientSex": "F",
            "PatientAge": "061Y",
            "Indication": "Cough.",
            "Comparison": "None.",
            "Findings": f"The lungs are clear in study {number}.",
            "Impression": "No acute disease.",
            "ImagePath": [f"../{path}" for path in paths],
            "ImageViewPosition": list(views),
            **fields,
        }
        return [put(self.root / path, png(number * 4 + n)) for n, path in enumerate(paths)]

    def write(self) -> None:
        for split, studies in self.studies.items():
            put(self.root / FILE.format(split), json.dumps(studies))

    def settings(self, **changes):
        return entry("rexgradient", self.root, **changes)
