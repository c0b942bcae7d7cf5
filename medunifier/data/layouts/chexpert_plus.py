"""CheXpert Plus (Chambon et al. 2024): df_chexpert_plus_240401.csv, one row an image, with its study's report.

index.images: the table. Columns used: `path_to_image` (train/patient42142/study5/view1_frontal.jpg), `frontal_lateral`,
    `ap_pa`, `split` (train, valid), `section_findings`, `section_impression`.
index.labels: findings_fixed.json, impression_fixed.json or report_fixed.json, one JSON object a line with
    `path_to_image` and the 14 labels of CheXbert; or the table itself, for no labels.

The images are looked for where the release puts them (PNG/, DICOM/Uncompressed/, as .png and .dcm, although the table
says .jpg), beside the table, and in the folders of CheXpert v1.0, whose images these are.

Sources: the README of Stanford-AIMI/chexpert-plus for the table's and sections' names; its header and the label files as
public code reads them (RadHarmony, radharmony/harmonizer/chexpert/chexpert_plus.py). `valid` is the test split, as in
ReXrank's data/README.md. Not known, and so not read: the names of the single files that Redivis offers.
"""

import json
from pathlib import Path

import polars as pl

from medunifier.data.index_files import label_columns, one_row_each, read_index
from medunifier.data.layouts import Raw, raw_images
from medunifier.data.raw_rows import one_report_each, paths_found, require_known
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SOURCE = "https://aimi.stanford.edu/datasets/chexpert-plus (free after registration)"
LABELS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices", "No Finding",
)  # fmt: skip
# Folder and suffix of the images.
FORMS = (
    ("", ".png"), ("PNG/", ".png"), ("PNG/PNG/", ".png"), ("", ".dcm"), ("DICOM/", ".dcm"),
    ("DICOM/Uncompressed/", ".dcm"), ("", ".jpg"), ("CheXpert-v1.0/", ".jpg"), ("CheXpert-v1.0-small/", ".jpg"),
)  # fmt: skip
_PATH = r"^(?<stem>(?:train|valid)/(?<patient_id>patient\d+)/(?<study>study\d+)/[^/]+)\.\w+$"
_SPLITS = {"train": None, "valid": "test"}


def read_images(settings: Dataset) -> Raw:
    """Return every row of the table; the validation rows as split `test`, training rows without a split."""
    root = Path(settings.root)
    path = root / settings.index.images
    given = ["path_to_image", "frontal_lateral", "split"]
    table = _with_ids(read_index(path, [*given, "ap_pa"], filled=given), path)
    require_known(table["split"], _SPLITS, f"{path}: split")
    require_known(table["frontal_lateral"], {"Frontal": 0, "Lateral": 0}, f"{path}: frontal_lateral")
    forms = [pl.format(f"{folder}{{}}{suffix}", "stem") for folder, suffix in FORMS]
    frontal = pl.col("ap_pa").fill_null("Frontal")
    rows = table.select(
        pl.col("path_to_image").alias("image_id"),
        "patient_id",
        "study_id",
        paths_found(root, table, forms),
        pl.when(pl.col("frontal_lateral") == "Frontal")
        .then(frontal)
        .otherwise(pl.lit("LATERAL"))
        .alias("view"),
        pl.col("split").replace_strict(_SPLITS, return_dtype=pl.String),
    )
    if settings.index.labels == settings.index.images:
        return Raw(raw_images(rows))
    labels = _labels(root / settings.index.labels)
    notes = {
        "images_without_labels": len(rows.join(labels, on="image_id", how="anti")),
        "label_rows_without_image": len(labels.join(rows, on="image_id", how="anti")),
    }
    return Raw(raw_images(rows.join(labels, on="image_id", how="left", maintain_order="left")), notes)


def read_reports(settings: Dataset, images: pl.DataFrame) -> Raw:
    """Return findings and impression of each study; its images repeat them in the table."""
    path = Path(settings.root) / settings.index.images
    sections = ["section_findings", "section_impression"]
    table = _with_ids(read_index(path, ["path_to_image", *sections], filled=["path_to_image"]), path)
    texts = table.join(images, on="study_id", how="semi")
    return Raw(one_report_each(texts.rename({name: name.removeprefix("section_") for name in sections})))


def _with_ids(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return `table` with `stem` (the image's path without suffix), `patient_id` and `study_id`."""
    parts = table["path_to_image"].str.extract_groups(_PATH).struct.unnest()
    if strange := table.filter(parts["stem"].is_null())["path_to_image"].to_list():
        raise InputError(
            f"{path}: path_to_image is {strange[0]!r} in {len(strange)} rows; expected "
            "train/patient00001/study1/view1_frontal.jpg"
        )
    study = (parts["patient_id"] + "/" + parts["study"]).alias("study_id")
    return table.with_columns(parts["stem"], parts["patient_id"], study)


def _labels(path: Path) -> pl.DataFrame:
    """Return `image_id` and the labels of a file with one JSON object a line."""
    if not path.is_file():
        raise InputError(f"{path}: no such file of labels; check `index.labels` in params.yaml")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        try:
            if line.strip():
                rows.append(_label_row(json.loads(line)))
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: expected a JSON object with path_to_image and labels ({error}). "
                "Fetch the file again, or set index.labels to the table for no labels"
            ) from error
    table = pl.DataFrame(rows, dict.fromkeys(("image_id", *LABELS), pl.String), orient="row")
    return label_columns(one_row_each(table, "image_id", path), LABELS, path)


def _label_row(row: dict) -> tuple[str | None, ...]:
    """Return the image and its labels as texts; null and NaN stand for a finding that is not mentioned."""
    if not any(label in row for label in LABELS):
        raise LookupError("none of the 14 labels")
    values = (row.get(label) for label in LABELS)
    return row["path_to_image"], *(
        None if value is None or value != value else str(value) for value in values
    )
