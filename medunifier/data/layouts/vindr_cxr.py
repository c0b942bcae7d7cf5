"""VinDr-CXR 1.0.0 (Nguyen et al. 2022): annotations/image_labels_{train,test}.csv, train/ID.dicom, test/ID.dicom.

index.images: image_labels_train.csv, one row a radiologist and image: `image_id`, `rad_id` and a column for each of the 28
    labels (1 or 0). Three radiologists read each training image.
index.split: image_labels_test.csv, one row an image: the consensus of five radiologists. It calls `Other diseases`
    `Other disease`.

A training label is 1 where most radiologists give it, 0 where none does, else -1 (uncertain). The data set names no
patients, neither in the tables nor in the DICOM headers: each image counts as one. All images are PA.

Sources: https://physionet.org/content/vindr-cxr/1.0.0/ and Nguyen et al. 2022 (readers, consensus, counts);
https://vindr.ai/datasets/cxr (PA views); the tables' columns and the lack of patients as public code and inventories of
downloads describe them (RadHarmony, docs/wiki/datasets/vindr_cxr.md). Boxes (annotations_*.csv) are not read.
"""

from pathlib import Path

import polars as pl

from medunifier.data.index_files import check_values, index_columns, read_index
from medunifier.data.layouts import Raw, no_reports, raw_images
from medunifier.data.raw_rows import label_name, paths_found
from medunifier.runtime.params import Dataset

SOURCE = "https://physionet.org/content/vindr-cxr/1.0.0/ (credentialed access)"
LABELS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation",
    "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst",
    "Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax",
    "Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis",
    "Other diseases", "No finding",
)  # fmt: skip
SUFFIXES = (".dicom", ".dcm", ".png", ".jpg")  # as distributed, and of copies
_OTHER = "Other disease"  # the name of "Other diseases" in the table of the test images

read_reports = no_reports


def read_images(settings: Dataset) -> Raw:
    """Return every image of both tables: the test images, as split `test`, then the others without a split.

    The order matters: of an image in both tables, preparation keeps the first row.
    """
    root = Path(settings.root)
    parts, notes = [], {}
    for folder, table, split in (
        ("test", settings.index.split, "test"),
        ("train", settings.index.images, None),
    ):
        votes = _read(root / table)
        notes[f"{folder}_label_rows"] = len(votes)
        images = votes.group_by("image_id", maintain_order=True).agg(map(_consensus, LABELS))
        forms = [pl.format(f"{folder}/{{}}{suffix}", "image_id") for suffix in SUFFIXES]
        path = paths_found(root, images, forms)
        parts.append(images.with_columns(path, pl.lit(split, pl.String).alias("split")))
    rows = pl.concat(parts)
    uncertain = rows.select(pl.col(label_name(label)) == -1 for label in LABELS)
    notes["labels_uncertain"] = int(uncertain.sum().sum_horizontal().item())
    image = pl.col("image_id")
    rows = rows.with_columns(image.alias("patient_id"), image.alias("study_id"), pl.lit("PA").alias("view"))
    return Raw(raw_images(rows), notes)


def _read(path: Path) -> pl.DataFrame:
    """Return `image_id` and the labels (int8, null where blank) of each row of a table."""
    own = [
        _OTHER if label == "Other diseases" and _OTHER in index_columns(path) else label for label in LABELS
    ]
    frame = read_index(path, ["image_id", *own], filled=["image_id"])
    for name in own:
        check_values(
            frame, name, pl.col(name).cast(pl.Float64, strict=False).is_in([0.0, 1.0]), "1 or 0", path
        )
    values = (
        pl.col(name).cast(pl.Float64).cast(pl.Int8).alias(label)
        for name, label in zip(own, LABELS, strict=True)
    )
    return frame.select("image_id", *values)


def _consensus(label: str) -> pl.Expr:
    """Return 1 where most of an image's rows give the label, 0 where none does, -1 otherwise, null without any."""
    share = pl.col(label).mean()
    value = pl.when(share > 0.5).then(1).when(share == 0).then(0).when(share.is_not_null()).then(-1)
    return value.cast(pl.Int8).alias(label_name(label))
