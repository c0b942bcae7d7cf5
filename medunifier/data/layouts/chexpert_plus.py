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

from medunifier.data.index_files import check_match, check_values, one_row_each, read_index, require_file
from medunifier.data.layouts import CHEXPERT_LABELS, Raw, raw_images
from medunifier.data.raw_rows import check_characters, label_name, one_report_each, paths_found
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SOURCE = "https://aimi.stanford.edu/datasets/chexpert-plus (free after registration)"
# Folder and suffix of the images.
FORMS = (
    ("", ".png"), ("PNG/", ".png"), ("PNG/PNG/", ".png"), ("", ".dcm"), ("DICOM/", ".dcm"),
    ("DICOM/Uncompressed/", ".dcm"), ("", ".jpg"), ("CheXpert-v1.0/", ".jpg"), ("CheXpert-v1.0-small/", ".jpg"),
)  # fmt: skip
_PATH = r"^(?<stem>(?:train|valid)/(?<patient_id>patient\d+)/(?<study>study\d+)/[^/]+)\.\w+$"
_SPLITS = {"train": None, "valid": "test"}
_VALUES = {1: 1, 0: 0, -1: -1, None: None}  # of a label; 1.0 is 1
_DECODER = json.JSONDecoder(parse_constant={"NaN": None}.__getitem__)


def read_images(settings: Dataset) -> Raw:
    """Return every row of the table; the validation rows as split `test`, training rows without a split."""
    root = Path(settings.root)
    path = root / settings.index.images
    given = ["path_to_image", "frontal_lateral", "split"]
    notes: dict[str, int] = {}
    table = _with_ids(read_index(path, [*given, "ap_pa"], filled=given, notes=notes), path)
    check_values(table, "split", pl.col("split").is_in(list(_SPLITS)), "train or valid", path)
    sides = pl.col("frontal_lateral").is_in(["Frontal", "Lateral"])
    check_values(table, "frontal_lateral", sides, "Frontal or Lateral", path)
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
        return Raw(raw_images(rows), notes)
    label_file = root / settings.index.labels
    labels = _labels(label_file)
    warnings = check_match(rows, labels, "image_id", (path, label_file))
    notes["images_without_labels"] = len(rows.join(labels, on="image_id", how="anti"))
    rows = rows.join(labels, on="image_id", how="left", maintain_order="left")
    return Raw(raw_images(rows), notes, warnings)


def read_reports(settings: Dataset, images: pl.DataFrame) -> Raw:
    """Return findings and impression of each study; its images repeat them in the table."""
    path = Path(settings.root) / settings.index.images
    sections = ["section_findings", "section_impression"]
    notes: dict[str, int] = {}
    index = read_index(path, ["path_to_image", *sections], filled=["path_to_image"], notes=notes)
    texts = _with_ids(index, path).join(images, on="study_id", how="semi")
    return Raw(
        one_report_each(texts.rename({name: name.removeprefix("section_") for name in sections})), notes
    )


def _with_ids(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return `table` with `stem` (the image's path without suffix), `patient_id` and `study_id`."""
    expected = "train/patient00001/study1/view1_frontal.jpg"
    check_values(table, "path_to_image", pl.col("path_to_image").str.contains(_PATH), expected, path)
    parts = table["path_to_image"].str.extract_groups(_PATH).struct.unnest()
    study = (parts["patient_id"] + "/" + parts["study"]).alias("study_id")
    return table.with_columns(parts["stem"], parts["patient_id"], study)


def _labels(path: Path) -> pl.DataFrame:
    """Return `image_id` and the labels of a file with one JSON object a line."""
    require_file(path)
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").split("\n"), 1):
        try:
            if line.strip():
                rows.append(_label_row(line))
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}: expected a JSON object with path_to_image and the labels, each 1, 0, -1 or null "
                f"({error}). Fetch the file again, or set index.labels to the table for no labels"
            ) from error
    if not rows:
        raise InputError(f"{path}: empty; fetch it again, or set index.labels to the table for no labels")
    labels = dict.fromkeys(map(label_name, CHEXPERT_LABELS), pl.Int8)
    table = pl.DataFrame(rows, {"image_id": pl.String, **labels}, orient="row")
    return one_row_each(table, "image_id", path)


def _label_row(line: str) -> tuple[str | int | None, ...]:
    """Return the image and its labels; null and NaN stand for a finding that is not mentioned."""
    row = _DECODER.decode(line)
    check_characters(line, row)
    if not any(label in row for label in CHEXPERT_LABELS):
        raise LookupError("none of the 14 labels")
    return str(row["path_to_image"]), *[_VALUES[row.get(label)] for label in CHEXPERT_LABELS]
