"""ReXGradient-160K (Zhang et al. 2025): metadata/{train,valid,test}_metadata_view_position.json and deid_png/.

index.images is the folder metadata/ as downloaded, or one of these three files. Each maps a study to its `PatientID`,
the list `ImagePath` (../deid_png/PATIENT/.../SOP.png, as seen from metadata/), the list `ImageViewPosition`, and the
sections `Indication`, `Comparison`, `Findings`, `Impression`. The key in the file is the study id. The file names the
official split (valid: validate); patients are in one split each. There are no labels.

Sources: the data set's card on Hugging Face (splits, sections, how to unpack deid_png.part*); fields, values of the views
and layout of the folders as public code reads them (RadHarmony, docs/wiki/datasets/rexgradient.md and
radharmony/harmonizer/rexgradient/rexgradient.py). Not read: the tables *_metadata.csv, which name no images, and
interstitial_pattern_bbox.json.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from medunifier.data.index_files import MISSING_WORDS, whole_id
from medunifier.data.layouts import Raw, raw_images
from medunifier.data.raw_rows import one_report_each, read_json
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SOURCE = "https://huggingface.co/datasets/rajpurkarlab/ReXGradient-160K (free after accepting the agreement)"
SPLITS = {"train": "train", "valid": "validate", "test": "test"}
FILE = "{}_metadata_view_position.json"
_VIEWS = {"POSTERO_ANTERIOR": "PA", "ANTERO_POSTERIOR": "AP"}
_NO_VIEW = "UNKNOWN"


def read_images(settings: Dataset) -> Raw:
    """Return every image of every study, with the split that its file stands for."""
    rows: list[tuple[str | None, ...]] = []
    notes = {"studies": 0, "studies_without_image": 0, "studies_with_uneven_views": 0}
    for split, study_id, study, where in _studies(settings):
        paths, views = _texts(study, "ImagePath", where), _texts(study, "ImageViewPosition", where)
        notes["studies"] += 1
        notes["studies_without_image"] += not paths
        if len(views) != len(paths):  # which view is which image's is unknown
            notes["studies_with_uneven_views"] += bool(paths and views)
            views = [None] * len(paths)
        patient = _text(study.get("PatientID"))
        for path, view in zip(paths, views, strict=True):
            if path is None:
                raise InputError(f"{where}: ImagePath holds a null; expected the path of an image")
            image_path = path.removeprefix("../")
            rows.append((image_path, patient, study_id, image_path, _view(view), split))
    names = ("image_id", "patient_id", "study_id", "image_path", "view", "split")
    table = pl.DataFrame(rows, dict.fromkeys(names, pl.String), orient="row")
    return Raw(raw_images(table.with_columns(whole_id("patient_id"))), notes)


def read_reports(settings: Dataset, images: pl.DataFrame) -> Raw:
    """Return findings and impression of each study; indication and comparison are not part of the report."""
    wanted = set(images["study_id"])
    rows = [
        (study_id, _text(study.get("Findings")), _text(study.get("Impression")))
        for _, study_id, study, _ in _studies(settings)
        if study_id in wanted
    ]
    names = ("study_id", "findings", "impression")
    return Raw(one_report_each(pl.DataFrame(rows, dict.fromkeys(names, pl.String), orient="row")))


def _studies(settings: Dataset) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Yield split, study id and fields of each study, and where it stands, for messages."""
    for split, path in _files(Path(settings.root) / settings.index.images):
        studies = read_json(path)
        if not isinstance(studies, dict) or not all(isinstance(study, dict) for study in studies.values()):
            raise InputError(f"{path}: expected a JSON object that maps studies to their fields")
        for study_id, study in studies.items():
            for field in ("PatientID", "Findings", "Impression"):
                if isinstance(study.get(field), list | dict):
                    raise InputError(
                        f"{path}, study {study_id!r}: {field} is {study[field]!r}; expected a text"
                    )
            yield split, study_id, study, f"{path}, study {study_id!r}"


def _files(index: Path) -> list[tuple[str, Path]]:
    """Return split and path of each metadata file that index.images names or holds."""
    folder, names = (index, None) if index.is_dir() else (index.parent, {index.name})
    files = [
        (split, folder / FILE.format(name))
        for name, split in SPLITS.items()
        if names is None or FILE.format(name) in names
    ]
    if found := [(split, path) for split, path in files if path.is_file()]:
        return found
    expected = ", ".join(FILE.format(name) for name in SPLITS)
    raise InputError(
        f"{index}: expected a folder with {expected}, or one of these files. Get them from {SOURCE}"
    )


def _texts(study: dict[str, Any], field: str, where: str) -> list[str | None]:
    """Return the list `field` of a study; empty where it is missing."""
    values = study.get(field) or []
    if not isinstance(values, list) or not all(value is None or isinstance(value, str) for value in values):
        raise InputError(f"{where}: {field} is {values!r}; expected a list of texts")
    return values


def _text(value: Any) -> str | None:
    """Return a text or number as text; None for NaN and the words that stand for a missing one."""
    text = "" if value is None or value != value else str(value).strip()
    return None if not text or text.lower() in MISSING_WORDS else text


def _view(value: str | None) -> str | None:
    """Return a view position by its usual name; None where it is unknown."""
    name = (_text(value) or _NO_VIEW).upper()
    return None if name == _NO_VIEW else _VIEWS.get(name, name)
