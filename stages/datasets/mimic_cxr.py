"""MIMIC-CXR-JPG 2.0.0 with the report texts of MIMIC-CXR, as PhysioNet distributes them.

root:    files/pNN/pSUBJECT/sSTUDY/DICOM.jpg, mimic-cxr-2.0.0-{metadata,split,chexpert}.csv.gz, SHA256SUMS.txt
reports: files/pNN/pSUBJECT/sSTUDY.txt, unpacked or still in mimic-cxr-reports.zip
"""

import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl

from stages.datasets import RAW_REPORTS, Raw
from stages.datasets.index_files import label_columns, one_row_each, read_index
from stages.datasets.rejects import Reason
from stages.datasets.reports import decode_text, parse_report
from stages.datasets.splits import read_splits
from stages.errors import InputError
from stages.params import Dataset

SOURCE = (
    "https://physionet.org/content/mimic-cxr-jpg/2.0.0/ and https://physionet.org/content/mimic-cxr/2.0.0/ "
    "(credentialed access)"
)
_READERS = 16  # threads: opening many small files waits for the disk or the network, not for the processor


def read_images(settings: Dataset) -> Raw:
    """Every row of the metadata file with its official split, its study's labels and its listed checksum."""
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
    """The parsed report of each study of `images`; a missing file, or one that is no text, gets a reason."""
    studies = images.select("patient_id", "study_id").unique(maintain_order=True)
    read = _report_reader(Path(settings.reports or settings.root))

    def parse(patient_id: str, study_id: str) -> tuple[tuple[str | None, ...], bool]:
        path = f"{_patient_folder(patient_id)}/s{study_id}.txt"
        raw = read(path)
        if raw is None:
            return (study_id, None, None, None, Reason.MISSING_REPORT, path), True
        try:
            text, is_utf8 = decode_text(raw)
        except UnicodeError as error:
            return (study_id, None, None, None, Reason.UNREADABLE_REPORT, f"{path}: {error}"), True
        report = parse_report(text, study_id)
        return (study_id, report.findings, report.impression, report.body, None, None), is_utf8

    with ThreadPoolExecutor(_READERS) as pool:
        parsed = list(pool.map(parse, studies["patient_id"], studies["study_id"]))
    rows = pl.DataFrame([row for row, _ in parsed], schema=dict(RAW_REPORTS.columns), orient="row")
    return Raw(rows, {"reports_not_utf8": sum(not is_utf8 for _, is_utf8 in parsed)})


def _patient_folder(patient_id: str) -> str:
    return f"files/p{patient_id[:2]}/p{patient_id}"


def _metadata(path: Path) -> pl.DataFrame:
    names = {
        "dicom_id": "image_id",
        "subject_id": "patient_id",
        "study_id": "study_id",
        "ViewPosition": "view",
    }
    frame = read_index(path, list(names), filled=["dicom_id", "subject_id", "study_id"]).rename(names)
    patient = pl.col("patient_id")
    image_path = pl.format(
        "files/p{}/p{}/s{}/{}.jpg", patient.str.slice(0, 2), patient, "study_id", "image_id"
    )
    return frame.with_columns(image_path.alias("image_path"))


def _labels(path: Path) -> pl.DataFrame:
    frame = read_index(path, ["subject_id", "study_id"], filled=["study_id"], every=True).drop("subject_id")
    frame = one_row_each(frame, "study_id", path)
    return label_columns(frame, [name for name in frame.columns if name != "study_id"], path)


def _checksums(path: Path) -> pl.DataFrame:
    """`image_path`, `sha256` as the list says; empty where the file is no such list: it need not be."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; `index.checksums` may name another index file instead")
    lines = pl.Series("line", path.read_text(encoding="utf-8", errors="replace").splitlines(), pl.String)
    found = lines.str.extract_groups(r"^(?<sha256>[0-9a-f]{64})\s+\*?(?:\./)?(?<image_path>files/.*\.jpg)$")
    return found.struct.unnest().drop_nulls().unique("image_path", maintain_order=True)


def _report_reader(root: Path) -> Callable[[str], bytes | None]:
    """A function from a report's path to its bytes, or to None if there is no such report."""
    if root.suffix == ".zip" and root.is_file():
        archive = zipfile.ZipFile(root)
        inside = {name[name.index("files/") :]: name for name in archive.namelist() if "files/" in name}
        return lambda path: archive.read(inside[path]) if path in inside else None
    if not root.is_dir():
        raise InputError(f"{root}: no folder and no zip file of reports; check `reports` in params.yaml")

    def read(path: str) -> bytes | None:
        try:
            return (root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    return read
