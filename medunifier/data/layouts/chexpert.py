"""CheXpert v1.0, original or -small (Irvin et al. 2019): train.csv, valid.csv and the images they list.

valid.csv, labelled by three radiologists, is the test list; train.csv has no official split.
"""

from pathlib import Path

import polars as pl

from medunifier.data.index_files import label_columns, read_index
from medunifier.data.layouts import Raw, no_reports, raw_images
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SOURCE = "https://stanfordmlgroup.github.io/competitions/chexpert/ (free after registration)"
LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
    "Fracture", "Support Devices",
)  # fmt: skip
# CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg; the first part is the name of the archive's folder.
_PATH = r"^(?:CheXpert-v1\.0[^/]*/)?(?<image_path>\w+/(?<patient_id>patient\d+)/(?<study>study\d+)/.+\.\w+)$"

read_reports = no_reports


def read_images(settings: Dataset) -> Raw:
    """Return every row of train.csv (index.images) and valid.csv (index.split); the latter as split `test`."""
    root = Path(settings.root)
    train, test = _read(root / settings.index.images), _read(root / settings.index.split)
    rows = pl.concat(
        [
            train.with_columns(pl.lit(None, pl.String).alias("split")),
            test.with_columns(pl.lit("test").alias("split")),
        ]
    )
    lateral = len(rows.filter(view="LATERAL"))
    return Raw(raw_images(rows), {"images_lateral": lateral, "images_frontal": len(rows) - lateral})


def _read(path: Path) -> pl.DataFrame:
    """Return the rows of one list, with labels."""
    frame = read_index(
        path, ["Path", "Frontal/Lateral", "AP/PA", *LABELS], filled=["Path", "Frontal/Lateral"]
    )
    parts = frame["Path"].str.extract_groups(_PATH).struct.unnest()
    if strange := frame.filter(parts["image_path"].is_null())["Path"].to_list():
        raise InputError(
            f"{path}: Path is {strange[0]!r} in {len(strange)} rows; expected "
            "CheXpert-v1.0.../train/patient00001/study1/view1_frontal.jpg"
        )
    sides = frame["Frontal/Lateral"].unique().to_list()
    if wrong := set(sides) - {"Frontal", "Lateral"}:
        raise InputError(f"{path}: Frontal/Lateral is {min(wrong)!r}; expected Frontal or Lateral")
    # 17 rows marked Frontal have the view LL or RL, which is lateral: the filter `views` rejects them.
    view = pl.when(pl.col("Frontal/Lateral") == "Frontal").then("AP/PA").otherwise(pl.lit("LATERAL"))
    rows = frame.select(
        parts["image_path"].alias("image_id"),
        parts["patient_id"],
        (parts["patient_id"] + "/" + parts["study"]).alias("study_id"),
        parts["image_path"],
        view.alias("view"),
        *LABELS,
    )
    return label_columns(rows, LABELS, path)
