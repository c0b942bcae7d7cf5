"""RSNA Pneumonia Detection Challenge, stage 2: stage_2_train_labels.csv, stage_2_train_images/PATIENT.dcm.

The label file has one row for each bounding box, up to four for a patient; each patient has one image.
Format: https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/data (Shih et al. 2019).
"""

from pathlib import Path

import polars as pl

from medunifier.data.dataset_files import find_files
from medunifier.data.dicom_headers import add_views
from medunifier.data.index_files import check_values, read_index, some
from medunifier.data.layouts import Raw, no_reports, raw_images
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SOURCE = "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/data (free with a Kaggle account)"
IMAGES = "stage_2_train_images"

read_reports = no_reports


def read_images(settings: Dataset) -> Raw:
    """Return one row for each patient, with `label_pneumonia`. The data set has no official split."""
    root = Path(settings.root)
    path = root / settings.index.images
    notes: dict[str, int] = {}
    columns = ["patientId", "x", "y", "width", "height", "Target"]
    boxes = read_index(path, columns, ["patientId", "Target"], ids=["patientId", "Target"], notes=notes)
    check_values(boxes, "Target", pl.col("Target").is_in(["0", "1"]), "0 or 1", path)
    has_box = pl.all_horizontal(pl.col("x", "y", "width", "height").is_not_null())
    wrong = boxes.filter(has_box != (pl.col("Target") == "1"))["patientId"].unique().sort().to_list()
    if wrong:
        raise InputError(f"{path}: a box without Target 1 or Target 1 without a box, patients {some(wrong)}")
    patients = boxes.group_by("patientId", maintain_order=True).agg(pl.col("Target").unique())
    both = patients.filter(pl.col("Target").list.len() > 1)["patientId"].to_list()
    if both:
        raise InputError(
            f"{path}: patients with Target 0 and 1: {some(both)}; keep rows of one kind for each"
        )
    patient = pl.col("patientId")
    rows = patients.select(
        patient.alias("image_id"),
        patient.alias("patient_id"),
        patient.alias("study_id"),
        pl.format(f"{IMAGES}/{{}}.dcm", patient).alias("image_path"),
        pl.col("Target").list.first().cast(pl.Int8).alias("label_pneumonia"),
    )
    files = find_files(root / IMAGES, ".dcm", notes)
    notes |= {
        "label_rows": len(boxes),
        "boxes": int((boxes["Target"] == "1").sum()),
        "images_with_pneumonia": int(rows["label_pneumonia"].sum()),
        "files_without_row": len(files.keys() - set(rows["image_id"])),
    }
    return Raw(raw_images(add_views(rows, root, settings.links)), notes)
