"""PadChest (Bustos et al. 2020): PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv(.gz), 16-bit PNG files.

index.images is the table, one row an image: `ImageID` (the file's name), `ImageDir` (its folder), `StudyID`, `PatientID`,
`Projection` (PA, L, AP, AP_horizontal, COSTAL), `Report` and `Labels`. Images lie in N/ or images/N/ for N = ImageDir, as
the archives N.zip hold them, or all in one folder (copies of other sizes).

`Report` is one Spanish text for a study, in lower case and reduced to word stems by the authors; it has no sections.
`Labels` lists the findings of a report as a Python list, "['cardiomegaly', 'pleural effusion']": a label is 1 where it is
listed, else 0. The tree that the paper arranges labels in is not applied: `laminar atelectasis` is no `atelectasis`.
Images labelled `exclude` are rejected: the annotators could not use them.

Sources: Bustos et al. 2020 (arXiv 1901.07441); columns, values, folders and their quirks as public code reads them
(torchxrayvision, PC_Dataset, whose name AP Supine for AP_horizontal is taken over; RadHarmony,
docs/wiki/datasets/padchest.md). The data set has no official split.
"""

import ast
from pathlib import Path

import polars as pl

from medunifier.data.index_files import read_index
from medunifier.data.layouts import Raw, raw_images
from medunifier.data.preparation.rejects import Reason
from medunifier.data.raw_rows import listed_labels, one_report_each, paths_found
from medunifier.runtime.params import Dataset

SOURCE = "https://bimcv.cipf.es/bimcv-projects/padchest/ (free after a request)"
EXCLUDED = "exclude"
_LONGEST_LIST = 10_000  # characters; all labels of the data set together are shorter


def read_images(settings: Dataset) -> Raw:
    """Return every row of the table."""
    root = Path(settings.root)
    path = root / settings.index.images
    columns = ["ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "Labels"]
    notes: dict[str, int] = {}
    table = read_index(path, columns, filled=["ImageID", "StudyID"], ids=columns[1:4], notes=notes)
    lists = {text: _parse(text) for text in table["Labels"].unique()}
    labels = [lists[text] for text in table["Labels"]]
    folder, image = pl.col("ImageDir").fill_null(""), pl.col("ImageID")
    split_up = (pl.format("{}/{}", folder, image), pl.format("images/{}/{}", folder, image))
    in_one_folder = (pl.format("images/{}", image), image)
    excluded = pl.Series([EXCLUDED in (found or ()) for found in labels], dtype=pl.Boolean)
    rows = table.select(
        image.alias("image_id"),
        pl.col("PatientID").alias("patient_id"),
        pl.col("StudyID").alias("study_id"),
        paths_found(root, table, (*split_up, *in_one_folder)),
        pl.col("Projection").replace("AP_horizontal", "AP Supine").alias("view"),
        pl.when(excluded).then(pl.lit(Reason.EXCLUDED.value)).alias("reason"),
        pl.when(excluded).then(pl.lit(f"Labels hold '{EXCLUDED}'")).alias("detail"),
    )
    unreadable = sum(lists[text] is None for text in table["Labels"].drop_nulls())
    notes |= {"images_without_labels": labels.count(None), "labels_unreadable": unreadable}
    return Raw(raw_images(pl.concat([rows, listed_labels(labels)], how="horizontal")), notes)


def read_reports(settings: Dataset, images: pl.DataFrame) -> Raw:
    """Return the report of each study as `body`: it has no sections."""
    path = Path(settings.root) / settings.index.images
    notes: dict[str, int] = {}
    table = read_index(path, ["StudyID", "Report"], filled=["StudyID"], ids=["StudyID"], notes=notes)
    texts = table.rename({"StudyID": "study_id", "Report": "body"}).join(images, on="study_id", how="semi")
    return Raw(one_report_each(texts), notes)


def _parse(text: str | None) -> frozenset[str] | None:
    """Return the labels of a list as the table writes it; None if it is missing or not such a list."""
    try:
        labels = ast.literal_eval((text or "None")[:_LONGEST_LIST])
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: it is nested too deeply
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return None
    return frozenset(label.strip() for label in labels if label.strip())
