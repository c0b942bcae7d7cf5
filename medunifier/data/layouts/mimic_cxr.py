"""MIMIC-CXR-JPG 2.0.0 with the reports of MIMIC-CXR (Johnson et al. 2019), as PhysioNet distributes them.

root:    files/pNN/pSUBJECT/sSTUDY/DICOM.jpg, mimic-cxr-2.0.0-{metadata,split,chexpert}.csv.gz, SHA256SUMS.txt
reports: files/pNN/pSUBJECT/sSTUDY.txt, unpacked or still in mimic-cxr-reports.zip
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from medunifier.data.index_files import label_columns, one_row_each, read_index
from medunifier.data.layouts import RAW_REPORTS, Raw
from medunifier.data.parallel import map_files, shared_map, without_collection
from medunifier.data.preparation.rejects import Reason
from medunifier.data.preparation.sections import decode_text, parse_report
from medunifier.data.preparation.splits import read_splits
from medunifier.data.zip_archive import BrokenEntry, read_directory, read_entry
from medunifier.runtime.cpu import available_cores
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SOURCE = (
    "https://physionet.org/content/mimic-cxr-jpg/2.0.0/ and https://physionet.org/content/mimic-cxr/2.0.0/ "
    "(credentialed access)"
)
_BLOCK = 1000  # studies that a process receives at once
_READ_BYTES = 1 << 14  # more than a report has; allocating a buffer of a megabyte takes longer than reading
_STUDIES_A_WORKER = 20_000  # about two seconds of reading; fewer are done before another process has started


def read_images(settings: Dataset) -> Raw:
    """Return every row of the metadata file with its official split, its study's labels and its listed checksum."""
    root = Path(settings.root)
    images = _metadata(root / settings.index.images)
    splits = read_splits(root / settings.index.split, "dicom_id")
    labels = _labels(root / settings.index.labels)
    sums = _checksums(root / settings.index.checksums)
    notes = {
        "split_rows_without_image": len(splits.join(images, on="image_id", how="anti")),
        "label_rows_without_image": len(labels.join(images, on="study_id", how="anti")),
        "images_without_labels": len(images.join(labels, on="study_id", how="anti")),
    }
    rows = (
        images.join(splits, on="image_id", how="left", maintain_order="left")
        .join(sums, on="image_path", how="left", maintain_order="left")
        .join(labels, on="study_id", how="left", maintain_order="left")
    )
    unsplit = pl.when(pl.col("split").is_null() & (settings.split == "official"))
    return Raw(
        rows.with_columns(
            unsplit.then(pl.lit(Reason.MISSING_SPLIT.value)).alias("reason"),
            unsplit.then(pl.lit(f"not in {settings.index.split}")).alias("detail"),
        ),
        notes,
    )


def read_reports(settings: Dataset, images: pl.DataFrame) -> Raw:
    """Return the sections of each study's report; a file that is missing or not text gets a rejection reason."""
    studies = images.select("patient_id", "study_id").unique(maintain_order=True)
    workers = min(available_cores(), 1 + len(studies) // _STUDIES_A_WORKER)
    with without_collection(), shared_map(workers, _parse_block) as mapped:
        paths = studies.select(pl.format("{}/s{}.txt", _patient_folder(), "study_id")).to_series().to_list()
        locations, read = _find_reports(Path(settings.reports or settings.root), paths)
        found = list(zip(studies["study_id"], paths, locations, strict=True))
        blocks = [(read, found[start : start + _BLOCK]) for start in range(0, max(len(found), 1), _BLOCK)]
        parsed = mapped(blocks)
    return Raw(
        pl.concat([rows for rows, _ in parsed]), {"reports_not_utf8": sum(count for _, count in parsed)}
    )


def _parse_block(block: tuple[Callable, list[tuple]]) -> tuple[pl.DataFrame, int]:
    """Return the RAW_REPORTS rows of some studies, and how many of their reports are not UTF-8.

    Args:
        block: the function that reads a report from its location; the studies as `_parse` takes them.
    """
    read, studies = block
    with without_collection():
        parsed = map_files(partial(_parse, read), studies)
        columns = zip(*(row for row, _ in parsed), strict=True)
        rows = pl.DataFrame(list(columns), schema=dict(RAW_REPORTS.columns), orient="col")
        return rows, sum(not is_utf8 for _, is_utf8 in parsed)


def _parse(read: Callable, study: tuple[str, str, Any]) -> tuple[tuple[str | None, ...], bool]:
    """Return the RAW_REPORTS row of a study (id, path and location of its report), and whether that is UTF-8."""
    study_id, path, location = study
    try:
        raw = None if location is None else read(location)
        if raw is None:
            return (study_id, None, None, None, Reason.MISSING_REPORT.value, path), True
        text, is_utf8 = decode_text(raw)
    except (UnicodeError, BrokenEntry) as error:
        return (study_id, None, None, None, Reason.UNREADABLE_REPORT.value, f"{path}: {error}"), True
    return (study_id, *parse_report(text, study_id), None, None), is_utf8


def _patient_folder() -> pl.Expr:
    """Return the folder of a patient: files/p10/p10000032."""
    patient = pl.col("patient_id")
    return pl.format("files/p{}/p{}", patient.str.slice(0, 2), patient)


def _metadata(path: Path) -> pl.DataFrame:
    """Return ids, view and path of each image of the metadata file."""
    names = {
        "dicom_id": "image_id",
        "subject_id": "patient_id",
        "study_id": "study_id",
        "ViewPosition": "view",
    }
    frame = read_index(path, list(names), filled=["dicom_id", "subject_id", "study_id"]).rename(names)
    image_path = pl.format("{}/s{}/{}.jpg", _patient_folder(), "study_id", "image_id")
    return frame.with_columns(image_path.alias("image_path"))


def _labels(path: Path) -> pl.DataFrame:
    """Return `study_id` and the 14 labels of the CheXpert labeler (or NegBio's file, of the same form)."""
    frame = read_index(path, ["subject_id", "study_id"], filled=["study_id"], every=True).drop("subject_id")
    frame = one_row_each(frame, "study_id", path)
    return label_columns(frame, [name for name in frame.columns if name != "study_id"], path)


def _checksums(path: Path) -> pl.DataFrame:
    """Return `image_path` and `sha256` of SHA256SUMS.txt; no rows if the file is another index file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; `index.checksums` may name another index file instead")
    lines = pl.Series("line", path.read_text(encoding="utf-8", errors="replace").splitlines(), pl.String)
    found = lines.str.extract_groups(r"^(?<sha256>[0-9a-f]{64})\s+\*?(?:\./)?(?<image_path>files/.*\.jpg)$")
    return found.struct.unnest().drop_nulls().unique("image_path", maintain_order=True)


def _find_reports(root: Path, paths: list[str]) -> tuple[list[Any], Callable]:
    """Return the location of each report (None: missing), and the function that reads a location's bytes."""
    if root.suffix == ".zip" and root.is_file():
        inside = {name[name.find("files/") :]: offset for name, offset in read_directory(root).items()}
        return [inside.get(path) for path in paths], partial(read_entry, str(root))
    if not root.is_dir():
        raise InputError(f"{root}: no folder and no zip file of reports; check `reports` in params.yaml")
    return [f"{root}/{path}" for path in paths], _read_file


def _read_file(path: str) -> bytes | None:
    """Return a file's bytes, or None if it is missing; half the time of Path.read_bytes for a small file."""
    try:
        file = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        parts = [os.read(file, _READ_BYTES)]
        while len(parts[-1]) == _READ_BYTES:
            parts.append(os.read(file, _READ_BYTES))
        return b"".join(parts)
    finally:
        os.close(file)
