"""A folder for each class: a text file lists the images, and patterns find class, patient and split in their paths.

index.images: one path a line, relative to root. Without it DVC would have to read every image to notice a new one:
    cd ROOT && find -L . -name '*.jpeg' | sort > images.txt
Patterns are `datasets.NAME.folders` in params.yaml. They are Rust's regular expressions (no look-around, no
back-references): matching takes linear time, whatever the pattern, and a pattern that would grow too large is refused.
"""

import re
from pathlib import Path

import polars as pl

from medunifier.data.index_files import read_lines, some
from medunifier.data.layouts import Raw, no_reports, raw_images
from medunifier.data.preparation.splits import as_split, keep_official
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset, FoldersLayout
from medunifier.storage.tables import LABEL_PREFIX

SOURCE = (
    "your own folders, and a list of their images: cd ROOT && find -L . -name '*.jpeg' | sort > images.txt; for "
    "Kermany's data set https://data.mendeley.com/datasets/rscbjbr9sj (free)"
)
_MOST_CLASSES = 100  # more are a pattern that finds something else

read_reports = no_reports


def read_images(settings: Dataset) -> Raw:
    """Return one row for each listed path, with one label for each class; classes exclude each other."""
    patterns = settings.folders or FoldersLayout()
    path = Path(settings.root) / settings.index.images
    lines = [line.removeprefix("./") for _, line in read_lines(path)]
    images = pl.Series(
        "image_path", [line for line in lines if not line.rsplit("/", 1)[-1].startswith(".")], pl.String
    )
    if images.is_empty():
        raise InputError(f"{path}: lists no image, only hidden files")
    classes = _found(images, patterns.class_pattern, "class_pattern", path)
    patients = _found(images, patterns.patient_pattern, "patient_pattern", path)
    rows = pl.DataFrame(
        {
            "image_id": images,
            "patient_id": images if patients is None else patients,
            "study_id": images,
            "image_path": images,
            "split": _splits(images, settings, path),
        }
    )
    assert classes is not None  # its pattern has a default
    notes = {"hidden_files": len(lines) - len(images)}
    warnings = []
    if patients is None:
        notes["images_without_patient"] = len(images)
        warnings.append(
            f"{path}: no folders.patient_pattern, so each of {len(images)} images counts as a patient of its own; "
            "images of one patient may be in several splits"
        )
    return Raw(raw_images(rows.with_columns(_labels(classes, patterns, path))), notes, warnings)


def _found(images: pl.Series, pattern: str | None, name: str, path: Path) -> pl.Series | None:
    """Return what the one group of a pattern finds in each path; None without a pattern.

    Raises:
        InputError: The pattern is no regular expression, too large or without a group, or finds nothing in some paths.
    """
    if pattern is None:
        return None
    try:
        found = images.str.extract(pattern, 1)
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"datasets.*.folders.{name}: {pattern!r} is no regular expression of Rust's syntax, or too large: "
            f"{' '.join(str(error).split())}"
        ) from error
    if missing := images.filter(found.is_null() | (found == "")).to_list():
        raise InputError(
            f"{path}: folders.{name} {pattern!r} finds nothing in {len(missing)} of {len(images)} paths, first "
            f"{missing[0]!r}; it needs one group, in brackets, and each listed path must match"
        )
    return found


def _splits(images: pl.Series, settings: Dataset, path: Path) -> pl.Series:
    """Return the split of each path; null without a pattern, and where `two_step` decides."""
    words = _found(images, (settings.folders or FoldersLayout()).split_pattern, "split_pattern", path)
    if words is None:
        return pl.Series([None] * len(images), dtype=pl.String)
    found = words.to_frame("word").select(as_split(pl.col("word"))).to_series()
    if strange := words.filter(found.is_null()).unique().sort().to_list():
        raise InputError(
            f"{path}: folders.split_pattern finds {some(strange)}; expected train, validate (val) or test"
        )
    return keep_official(found, settings)


def _labels(classes: pl.Series, patterns: FoldersLayout, path: Path) -> list[pl.Series]:
    """Return a column for each class: 1 for its images, else 0. Named classes are compared without regard to case."""
    found = classes.unique().sort().to_list()
    if not patterns.classes:
        names = {re.sub(r"\W+", "_", text.lower()).strip("_"): text for text in found}
        if len(names) < len(found) or "" in names or len(found) > _MOST_CLASSES:
            raise InputError(
                f"{path}: folders.class_pattern finds {len(found)} classes that make no distinct labels: {some(found)}; "
                "name them under folders.classes"
            )
        return [(classes == text).cast(pl.Int8).alias(LABEL_PREFIX + label) for label, text in names.items()]
    names = {label: text.lower() for label, text in patterns.classes.items()}
    if unknown := sorted(text for text in found if text.lower() not in names.values()):
        raise InputError(
            f"{path}: folders.class_pattern finds {some(unknown)}; folders.classes has "
            f"{', '.join(patterns.classes.values())}"
        )
    lower = classes.str.to_lowercase()
    return [(lower == text).cast(pl.Int8).alias(LABEL_PREFIX + label) for label, text in names.items()]
