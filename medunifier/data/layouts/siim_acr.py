"""SIIM-ACR Pneumothorax Segmentation: train-rle.csv and dicom-images-train/STUDY/SERIES/IMAGE.dcm.

The list has one row for each mask, several for some images; the label is whether there is one. Two other copies of the
same images are read, too: stage 2 of the challenge, and PNG files with a list of labels (see `_ACCEPTED`).
Format: https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation/data.
"""

from pathlib import Path

import polars as pl

from medunifier.data.dataset_files import find_files
from medunifier.data.dicom_headers import add_views
from medunifier.data.index_files import check_values, index_columns, read_index, some
from medunifier.data.layouts import Raw, no_reports, raw_images
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SOURCE = "https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation/data (free with a Kaggle account)"
IMAGES = "dicom-images-train"  # where an image's file is expected if there is no folder of images at all
_DICOM_FOLDERS = (IMAGES, "stage_2_images")
_PNG_FOLDER = "png_images"
_ACCEPTED = f"train-rle.csv with {IMAGES}/, stage_2_train.csv with stage_2_images/, or stage_1_train_images.csv with {_PNG_FOLDER}/"
PIXELS = 1024 * 1024  # of the images that the run lengths refer to
NO_MASK = "-1"  # after stripping: the original has " -1", some copies "-1"

read_reports = no_reports


def read_images(settings: Dataset) -> Raw:
    """Return one row for each image, with `label_pneumothorax`; patients are unknown, so each image is one."""
    root = Path(settings.root)
    path = root / settings.index.images
    if "has_pneumo" in index_columns(path):
        return _read_png_copy(path, root)
    masks = read_index(path, ["ImageId", "EncodedPixels"], filled=["ImageId", "EncodedPixels"])
    _check_run_lengths(masks, path)
    positive = pl.col("EncodedPixels") != NO_MASK
    images = masks.group_by("ImageId", maintain_order=True).agg(
        positive.any().alias("any"), positive.all().alias("all")
    )
    if both := images.filter(pl.col("any") != pl.col("all"))["ImageId"].to_list():
        raise InputError(
            f"{path}: images with a mask and with -1: {some(both)}; keep rows of one kind for each"
        )
    notes: dict[str, int] = {}
    folders = [name for name in _DICOM_FOLDERS if (root / name).is_dir()]
    found: dict[str, Path] = {}
    for folder in folders:
        found = find_files(root / folder, ".dcm", notes) | found
    files = {name: str(path.relative_to(root)) for name, path in found.items()}
    image = pl.col("ImageId")
    # The path of a missing file shows at least its name.
    where = image.replace_strict(
        files, default=pl.format(f"{IMAGES}/*/*/{{}}.dcm", image), return_dtype=pl.String
    )
    rows = images.select(
        image.alias("image_id"),
        image.alias("patient_id"),
        image.alias("study_id"),
        where.alias("image_path"),
        pl.col("any").cast(pl.Int8).alias("label_pneumothorax"),
    )
    notes |= {
        "mask_rows": len(masks),
        "images_with_pneumothorax": int(rows["label_pneumothorax"].sum()),
        "files_without_row": len(files.keys() - set(rows["image_id"])),
    }
    warnings = [] if folders else [f"{root}: no folder of images; accepted: {_ACCEPTED}"]
    return Raw(raw_images(add_views(rows, root, settings.links)), notes, warnings)


def _read_png_copy(path: Path, root: Path) -> Raw:
    """Return the rows of the PNG copy: stage_1_train_images.csv with `new_filename`, `ImageId`, `has_pneumo`.

    The copy is Kaggle's vbookshelf/pneumothorax-chest-xray-images-and-masks; it has no views.
    """
    columns = ["new_filename", "ImageId", "has_pneumo"]
    frame = read_index(path, columns, filled=columns, ids=["has_pneumo"])
    check_values(frame, "has_pneumo", pl.col("has_pneumo").is_in(["0", "1"]), "0 or 1", path)
    rows = frame.select(
        pl.col("ImageId").alias("image_id"),
        pl.col("ImageId").alias("patient_id"),
        pl.col("ImageId").alias("study_id"),
        pl.format(f"{_PNG_FOLDER}/{{}}", "new_filename").alias("image_path"),
        pl.col("has_pneumo").cast(pl.Int8).alias("label_pneumothorax"),
    )
    notes = {"images_with_pneumothorax": int(rows["label_pneumothorax"].sum())}
    files = {file.name for file in find_files(root / _PNG_FOLDER, ".png", notes).values()}
    notes["files_without_row"] = len(files - set(frame["new_filename"]))
    warnings = (
        [] if (root / _PNG_FOLDER).is_dir() else [f"{root}: no folder of images; accepted: {_ACCEPTED}"]
    )
    return Raw(raw_images(rows), notes, warnings)


def _check_run_lengths(masks: pl.DataFrame, path: Path) -> None:
    """Check the masks: pairs of the gap since the last run and the run's length, in column-major order.

    Raises:
        InputError: A mask is not of this form.
    """
    runs = masks.filter(pl.col("EncodedPixels") != NO_MASK)
    words = pl.col("EncodedPixels").str.extract_all(r"\S+")
    numbers = words.list.eval(pl.element().cast(pl.Int64, strict=False))
    right = (
        (numbers.list.len() % 2 == 0)
        & ~numbers.list.contains(None)
        & (numbers.list.min() >= 0)
        & (numbers.list.sum() <= PIXELS)  # gaps and lengths together end inside the image
    )
    if wrong := runs.filter(~right.fill_null(False))["ImageId"].to_list():
        raise InputError(
            f"{path}: EncodedPixels of {len(wrong)} rows, first of image {wrong[0]}: expected -1, or pairs "
            "'gap length' of whole numbers that end inside 1024 x 1024 pixels"
        )
