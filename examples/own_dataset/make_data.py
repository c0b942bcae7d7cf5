"""python -m examples.own_dataset.make_data FOLDER [PATIENTS]: a data set to try the example with.

Writes studies.csv and images/ with the columns that hospital.yaml names. Images and reports are phantoms: no patient is shown.
"""

import csv
import sys
from pathlib import Path

from medunifier.phantom.studies import generate_patient

COLUMNS = ("file", "study", "patient", "view", "pneumonia", "findings", "impression")


def make_data(folder: Path, patients: int = 60, image_size: int = 256) -> int:
    """Write the images and reports of some patients; return the number of images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for patient in range(patients):
        for number, study in enumerate(generate_patient(0, patient, image_size)):
            report = study.report
            for image, radiograph in enumerate(study.radiographs):
                name = f"patient{patient}-study{number}-image{image}.jpg"
                (folder / "images" / name).write_bytes(radiograph.jpg)
                rows.append(
                    {
                        "file": name,
                        "study": f"{patient}-{number}",
                        "patient": patient,
                        "view": radiograph.view,
                        "pneumonia": (report.labels or {}).get("Pneumonia", 0),
                        "findings": report.findings,
                        "impression": report.impression,
                    }
                )
    with (folder / "studies.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    count = make_data(root, *map(int, sys.argv[2:3]))
    print(f"{root}: {count} images, and studies.csv")
