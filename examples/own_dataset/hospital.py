"""Layout of a hospital's data set: studies.csv, one row for each image, and the image files in images/.

Columns of studies.csv: `file`, `study`, `patient`, `view`, `pneumonia` (1, 0, -1 uncertain or blank), `findings` and
`impression`. A study may have several images; they share its report. Files are JPEG, PNG or DICOM.
"""

from pathlib import Path

import polars as pl

from medunifier.data.index_files import label_columns, one_row_each, read_index
from medunifier.data.layouts import RAW_REPORTS, Raw, raw_images
from medunifier.runtime.params import Dataset

SOURCE = "the archive of the radiology department"


def read_images(settings: Dataset) -> Raw:
    """Return one row for each image; `raw_images` adds the columns that this data set lacks."""
    path = Path(settings.root) / settings.index.images
    ids = {"file": "image_id", "study": "study_id", "patient": "patient_id"}
    rows = read_index(path, [*ids, "view", "pneumonia"], filled=ids).rename(ids)
    rows = rows.with_columns(pl.format("images/{}", "image_id").alias("image_path"))
    return Raw(raw_images(label_columns(rows, ["pneumonia"], path)))


def read_reports(settings: Dataset, images: pl.DataFrame) -> Raw:
    """Return findings and impression of each study; images of one study with different reports are an error."""
    path = Path(settings.root) / settings.index.images
    reports = read_index(path, ["study", "findings", "impression"], filled=["study"])
    reports = one_row_each(reports, "study", path).rename({"study": "study_id"})
    return Raw(pl.concat([RAW_REPORTS.empty(), reports], how="diagonal"))
