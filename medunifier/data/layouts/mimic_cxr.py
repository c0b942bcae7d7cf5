"""MIMIC-CXR-JPG 2.0.0 with the reports of MIMIC-CXR (Johnson et al. 2019), as PhysioNet distributes them.

root:    files/pNN/pSUBJECT/sSTUDY/DICOM.jpg, mimic-cxr-2.0.0-{metadata,split,chexpert}.csv.gz, SHA256SUMS.txt
reports: files/pNN/pSUBJECT/sSTUDY.txt, unpacked or still in mimic-cxr-reports.zip
"""

from pathlib import Path

import polars as pl

from medunifier.data.index_files import (
    check_match,
    index_columns,
    label_columns,
    one_row_each,
    read_index,
    some,
)
from medunifier.data.layouts import CHEXPERT_LABELS, Raw, raw_images
from medunifier.data.preparation.rejects import Reason
from medunifier.data.preparation.splits import read_splits
from medunifier.data.report_files import read_report_files
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SOURCE = (
    "https://physionet.org/content/mimic-cxr-jpg/2.0.0/ and https://physionet.org/content/mimic-cxr/2.0.0/ "
    "(credentialed access)"
)


def read_images(settings: Dataset) -> Raw:
    """Return every row of the metadata file with its official split, its study's labels and its listed checksum."""
    root, index = Path(settings.root), settings.index
    notes: dict[str, int] = {}
    images = _metadata(root / index.images, notes)
    splits = read_splits(root / index.split, "dicom_id")
    labels, extra = _labels(root / index.labels)
    sums = _checksums(root / index.checksums)
    notes |= {
        "split_rows_without_image": len(splits.join(images, on="image_id", how="anti")),
        "label_rows_without_image": len(labels.join(images, on="study_id", how="anti")),
        "images_without_labels": len(images.join(labels, on="study_id", how="anti")),
    }
    warnings = (
        [f"{root / index.labels}: no labels in the columns {some(extra)}; they are left out"] if extra else []
    )
    for table, key, name in ((splits, "image_id", index.split), (labels, "study_id", index.labels)):
        warnings += check_match(images, table, key, (root / index.images, root / name))
    warnings += check_match(images, sums, "image_path", (root / index.images, root / index.checksums))
    rows = (
        images.join(splits, on="image_id", how="left", maintain_order="left")
        .join(sums, on="image_path", how="left", maintain_order="left")
        .join(labels, on="study_id", how="left", maintain_order="left")
    )
    unsplit = pl.when(pl.col("split").is_null() & (settings.split == "official"))
    rows = rows.with_columns(
        unsplit.then(pl.lit(Reason.MISSING_SPLIT.value)).alias("reason"),
        unsplit.then(pl.lit(f"not in {settings.index.split}")).alias("detail"),
    )
    return Raw(raw_images(rows), notes, warnings)


def read_reports(settings: Dataset, images: pl.DataFrame) -> Raw:
    """Return the sections of each study's report; a file that is missing or not text gets a rejection reason."""
    studies = images.select("patient_id", "study_id").unique(maintain_order=True)
    rows, notes = read_report_files(
        Path(settings.reports or settings.root),
        studies["study_id"],
        studies.select(pl.format("{}/s{}.txt", _patient_folder(), "study_id")).to_series(),
        ndication=settings.ndication,
        links=settings.links,
    )
    return Raw(rows, notes)


def _patient_folder() -> pl.Expr:
    """Return the folder of a patient: files/p10/p10000032."""
    patient = pl.col("patient_id")
    return pl.format("files/p{}/p{}", patient.str.slice(0, 2), patient)


def _metadata(path: Path, notes: dict[str, int]) -> pl.DataFrame:
    """Return ids, view and path of each image of the metadata file."""
    names = {
        "dicom_id": "image_id",
        "subject_id": "patient_id",
        "study_id": "study_id",
        "ViewPosition": "view",
    }
    ids = ["dicom_id", "subject_id", "study_id"]
    frame = read_index(path, list(names), filled=ids, ids=ids, notes=notes).rename(names)
    image_path = pl.format("{}/s{}/{}.jpg", _patient_folder(), "study_id", "image_id")
    return frame.with_columns(image_path.alias("image_path"))


def _labels(path: Path) -> tuple[pl.DataFrame, list[str]]:
    """Return `study_id` and the labels of the CheXpert labeler (or NegBio's file, of the same form), and other columns.

    Raises:
        InputError: The file has none of the labels.
    """
    columns = index_columns(path)
    labels = [name for name in columns if name in CHEXPERT_LABELS]
    if not labels:
        raise InputError(f"{path}: no column with a label; found {', '.join(columns)}. Is it the label file?")
    frame = read_index(path, ["study_id", *labels], filled=["study_id"], ids=["study_id"])
    frame = one_row_each(frame, "study_id", path)
    extra = [name for name in columns if name and name not in (*labels, "study_id", "subject_id")]
    return label_columns(frame, labels, path), extra


def _checksums(path: Path) -> pl.DataFrame:
    """Return `image_path` and `sha256` of SHA256SUMS.txt; no rows if the file is another index file.

    Raises:
        InputError: There is no such file, or it lists checksums of other files only.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; `index.checksums` may name another index file instead")
    lines = pl.Series("line", path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), pl.String)
    found = lines.str.extract_groups(r"^(?<sha256>[0-9a-f]{64})\s+\*?(?:\./)?(?<image_path>files/.*\.jpg)$")
    sums = found.struct.unnest().drop_nulls()
    listed = lines.filter(lines.str.contains(r"^[0-9a-fA-F]{64}\s"))
    if sums.is_empty() and len(listed):
        raise InputError(
            f"{path}: none of its {len(listed)} checksums is of an image, first {listed[0]!r}; expected lines such as "
            "SHA256 files/p10/p10000032/s50414267/DICOM.jpg"
        )
    return one_row_each(sums, "image_path", path)
