"""CheXpert v1.0, original or -small (Irvin et al. 2019): train.csv, valid.csv and the images they list.

valid.csv, labelled by three radiologists, is the test list; train.csv has no official split. Images lie in train/ and
valid/ beside train.csv, wherever below the root that is. The original comes as four archives, whose folders may stay
as they are: `CheXpert-v1.0 batch 1 (validate & csv)` with the lists and valid/, `CheXpert-v1.0 batch 2 (train 1)` to
`batch 4 (train 3)` with the folders of the patients.
"""

import os
from pathlib import Path

import polars as pl

from medunifier.data.index_files import check_values, index_columns, label_columns, read_index
from medunifier.data.layouts import CHEXPERT_LABELS, Raw, no_reports, raw_images
from medunifier.data.patient_columns import as_age, as_sex
from medunifier.runtime.params import Dataset

SOURCE = "https://stanfordmlgroup.github.io/competitions/chexpert/ (free after registration)"
# CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg; the first part is the name of the archive's folder.
_PATH = r"^(?:CheXpert-v1\.0[^/]*/)?(?<image_path>\w+/(?<patient_id>patient\d+)/(?<study>study\d+)/.+\.\w+)$"

read_reports = no_reports


def read_images(settings: Dataset) -> Raw:
    """Return every row of train.csv (index.images) and valid.csv (index.split); the latter as split `test`."""
    root = Path(settings.root)
    notes: dict[str, int] = {}
    train, test = (_read(root / name, notes) for name in (settings.index.images, settings.index.split))
    rows = pl.concat(
        [
            train.with_columns(pl.lit(None, pl.String).alias("split")),
            test.with_columns(pl.lit("test").alias("split")),
        ]
    )
    rows, warnings = _locate(rows, root, Path(settings.index.images).parent)
    lateral = len(rows.filter(view="LATERAL"))
    notes |= {"images_lateral": lateral, "images_frontal": len(rows) - lateral}
    return Raw(raw_images(rows), notes, warnings)


def _locate(rows: pl.DataFrame, root: Path, base: Path) -> tuple[pl.DataFrame, list[str]]:
    """Return `rows` with `image_path` relative to `root`, and warnings.

    Args:
        rows: rows whose `image_path` is relative to the folder of train.csv.
        root: root folder of the data set.
        base: folder of train.csv, relative to `root`.
    """
    folder = pl.col("image_path").str.extract(r"^(\w+)/")
    folders = rows.select(folder.unique(maintain_order=True)).to_series().drop_nulls()
    apart = [name for name in folders if not (root / base / name).is_dir()]
    patients = _batch_folders(root) if apart else {}
    below = pl.format("{}/{}", "patient_id", pl.col("image_path").str.replace(r"^\w+/[^/]+/", ""))
    batch = pl.col("patient_id").replace_strict(patients, default=None, return_dtype=pl.String)
    path = (
        pl.when(folder.is_in(apart) & batch.is_not_null())
        .then(pl.format("{}/{}", batch, below))
        .otherwise(pl.lit("" if base == Path() else f"{base}/") + pl.col("image_path"))
    )
    warnings = [
        f"{root / base} has no folder {name}/; accepted: {name}/ beside train.csv, or the folders "
        "`CheXpert-v1.0 batch N (...)` of the original's archives below the root"
        for name in apart
        if not patients
    ]
    return rows.with_columns(path.alias("image_path")), warnings


def _batch_folders(root: Path) -> dict[str, str]:
    """Map patients to the folder, relative to the root, that holds theirs: a batch's folder, or train/ or valid/ in it."""
    found: dict[str, str] = {}
    for batch in sorted(root.glob("CheXpert-v1.0*batch*")):
        for folder in (batch, batch / "train", batch / "valid"):
            if folder.is_dir():
                where = str(folder.relative_to(root))
                found |= {name: where for name in os.listdir(folder) if name.startswith("patient")}
    return found


def _read(path: Path, notes: dict[str, int]) -> pl.DataFrame:
    """Return the rows of one list, with labels."""
    there = index_columns(path)
    # Only text from labels reads sex and age, which some copies leave out.
    sex, age = (pl.col(name) if name in there else pl.lit(None, pl.String) for name in ("Sex", "Age"))
    columns = ["Path", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS]
    columns += [name for name in ("Sex", "Age") if name in there]
    frame = read_index(path, columns, filled=["Path", "Frontal/Lateral"], notes=notes)
    parts = frame["Path"].str.extract_groups(_PATH).struct.unnest()
    check_values(
        frame,
        "Path",
        parts["image_path"].is_not_null(),
        "CheXpert-v1.0.../train/patient00001/study1/view1.jpg",
        path,
    )
    sides = pl.col("Frontal/Lateral").is_in(["Frontal", "Lateral"])
    check_values(frame, "Frontal/Lateral", sides, "Frontal or Lateral", path)
    # 17 rows marked Frontal have the view LL or RL, which is lateral: the filter `views` rejects them.
    view = pl.when(pl.col("Frontal/Lateral") == "Frontal").then("AP/PA").otherwise(pl.lit("LATERAL"))
    rows = frame.select(
        parts["image_path"].alias("image_id"),
        parts["patient_id"],
        (parts["patient_id"] + "/" + parts["study"]).alias("study_id"),
        parts["image_path"],
        view.alias("view"),
        as_sex(sex).alias("sex"),
        as_age(age).alias("age"),
        *CHEXPERT_LABELS,
    )
    return label_columns(rows, CHEXPERT_LABELS, path)
