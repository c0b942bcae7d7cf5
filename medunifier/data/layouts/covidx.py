"""COVIDx (Wang et al. 2020, COVID-Net): space-separated lists `patient filename class source`, train/, test/.

The list decides about the classes: three (normal, pneumonia, COVID-19; list 9A, for example) or two (negative,
positive; list 6, COVIDx CXR-4). Some rows have no patient or no source; patients and sources may hold spaces.

COVIDx CXR-4 has a third list, val.txt, with the images of val/: index.labels names it. The three lists are then the
official split; without it, index.labels names one of the other two, and the train list has no official split.

Sources: docs/COVIDx.md of https://github.com/lindawangg/COVID-Net; for CXR-4, Wu et al. 2023 (arXiv 2311.17677) and the
names and columns of its lists as public code reads them from Kaggle's andyczhao/covidx-cxr2 (train.txt, val.txt, test.txt
beside train/, val/, test/). Whether its three lists share patients is not documented: `prepare` refuses if they do.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from medunifier.data.index_files import MISSING_WORDS, read_lines, whole_id
from medunifier.data.layouts import Raw, no_reports, raw_images
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SOURCE = "https://github.com/lindawangg/COVID-Net, docs/COVIDx.md, or Kaggle's andyczhao/covidx-cxr2 (COVIDx CXR-4; with a 3-class list for earlier versions)"
LABELS = ("label_normal", "label_pneumonia", "label_covid_19")
# Class -> values of LABELS. A two-class list does not state whether an image without COVID-19 is normal.
THREE_CLASSES = {"normal": (1, 0, 0), "pneumonia": (0, 1, 0), "COVID-19": (0, 0, 1)}
TWO_CLASSES = {"negative": (None, None, 0), "positive": (None, None, 1)}
_SOURCE_WORDS = 2  # at most; with more, a word of the file name could be taken for the class
_CLASSES = THREE_CLASSES | TWO_CLASSES

read_reports = no_reports


def read_images(settings: Dataset) -> Raw:
    """Return every row of the test list (index.split), of the validation list if there is one, and of the train list.

    The order matters: of a file name in two lists, preparation keeps the first row.

    Raises:
        InputError: A list cannot be read, lists are of different versions, or three lists are to be split in two steps.
    """
    root = Path(settings.root)
    lists, splits = _lists(settings), {"test": "test"}
    if "val" in lists:
        splits |= {"val": "validate", "train": "train"}
        if settings.split == "two_step":
            raise InputError(
                f"{lists['val']}: with a validation list the split is whole; set `split: official` in params.yaml, or "
                f"let index.labels name {settings.index.images}"
            )
    notes: dict[str, int] = {}
    found = {folder: read_list(path, root / folder, notes) for folder, path in lists.items()}
    classes = Counter(row[2] for rows in found.values() for row in rows)
    if set(classes) & set(THREE_CLASSES) and set(classes) & set(TWO_CLASSES):
        raise InputError(
            f"{' and '.join(map(str, lists.values()))}: two-class and three-class lists are mixed (found "
            f"{', '.join(sorted(classes))}); name lists of one version under `index`"
        )
    rows = [
        (file, patient, file, f"{folder}/{file}", splits.get(folder), *_CLASSES[kind])
        for folder, listed in found.items()
        for patient, file, kind in listed
    ]
    texts = dict.fromkeys(("image_id", "patient_id", "study_id", "image_path", "split"), pl.String)
    frame = pl.DataFrame(rows, {**texts, **dict.fromkeys(LABELS, pl.Int8)}, orient="row")
    notes |= {f"class_{kind.lower().replace('-', '_')}": number for kind, number in sorted(classes.items())}
    return Raw(raw_images(frame.with_columns(whole_id("patient_id"))), notes)


def _lists(settings: Dataset) -> dict[str, Path]:
    """Map the folders of images to their lists: test, val (if index.labels names a list of its own) and train."""
    index = settings.index
    names = {"test": index.split, "val": index.labels, "train": index.images}
    if index.labels in (index.split, index.images):
        del names["val"]
    return {folder: Path(settings.root) / name for folder, name in names.items()}


def read_list(path: Path, folder: Path, notes: dict[str, int]) -> list[tuple[str, str, str]]:
    """Return (patient, filename, class) of each line of a list.

    Args:
        path: the list.
        folder: the folder of its images, where a file name that may hold spaces is looked up.
        notes: takes the number of images whose patient is missing and which count as a patient of their own.

    Raises:
        InputError: The list is missing or empty, or a class is unknown.
    """
    rows = [_parse(line.split(), number, path, folder) for number, line in read_lines(path)]
    if unknown := sum(patient is None for patient, _, _ in rows):
        notes["images_without_patient"] = notes.get("images_without_patient", 0) + unknown
    return [(file if patient is None else patient, file, kind) for patient, file, kind in rows]


def _parse(fields: Sequence[str], number: int, path: Path, folder: Path) -> tuple[str | None, str, str]:
    """Return patient (None: missing), file and class; the last known class name separates both from the source.

    Before the class, the last word is the file and all others are the patient: in the published lists, patients of the
    source `sirm` have two words (COVID 70), and spaces were stripped from file names. A file whose name does hold
    spaces is recognised by being there.
    """
    positions = range(len(fields) - 1, max(0, len(fields) - 2 - _SOURCE_WORDS), -1)
    position = next((position for position in positions if fields[position] in _CLASSES), None)
    if position is None:
        raise InputError(
            f"{path}, line {number}: {' '.join(fields)!r} has no known class; expected "
            f"`patient filename class source` with one of {', '.join(_CLASSES)}"
        )
    words, kind = fields[:position], fields[position]
    if position == 1:
        return None, words[0], kind
    start = position - 1
    if position > 2 and not _is_there(folder, words[start:]):
        start = next((first for first in range(1, start) if _is_there(folder, words[first:])), start)
    patient = " ".join(words[:start])
    return None if patient.lower() in MISSING_WORDS else patient, " ".join(words[start:]), kind


def _is_there(folder: Path, words: Sequence[str]) -> bool:
    name = " ".join(words)
    return "/" not in name and os.path.isfile(folder / name)
