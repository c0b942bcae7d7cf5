"""Write copies of MIMIC-CXR-JPG with synthetic content, in its official layout, at its real size or a share of it.

Counts: 65 379 patients, 227 835 studies, 377 110 images (MIMIC-CXR-JPG 2.0.0). What costs time is as in the
original: number of rows, files and folders, length and headers of the reports, size of the radiographs.
"""

import gzip
import hashlib
import random
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

PATIENTS, STUDIES, IMAGES = 65_379, 227_835, 377_110
VIEWS = {
    "AP": 147_000,
    "PA": 96_000,
    "LATERAL": 83_000,
    "LL": 35_000,
    "": 15_800,
    "LPO": 180,
    "SWIMMERS": 130,
}
LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
    "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia",
    "Pneumothorax", "Support Devices",
)  # fmt: skip
RADIOGRAPH = (3056, 2544)  # pixels, rows x columns: the usual size; about 1.5 MB as JPEG, as in the data set
GRAIN = 2.0  # grey levels of film grain, which makes the files as large as that

POOL = 2000  # texts of each section, from which reports are put together
# Layout of a report -> how often in 1000; {f} findings, {i} impression, {c} a clause.
REPORTS = {
    " EXAMINATION:  CHEST (PA AND LAT)\n \n INDICATION:  {c}\n \n TECHNIQUE:  Chest PA and lateral\n \n"
    " COMPARISON:  ___.\n \n FINDINGS: \n \n {f}\n \n IMPRESSION: \n \n {i}\n": 560,
    " HISTORY:  {c}\n \n COMPARISON:  None.\n \n FINDINGS:  {f}\n \n IMPRESSION:  {i}\n": 90,
    " INDICATION:  {c}\n \n COMPARISON:  ___.\n \n IMPRESSION:  {i}  {f}\n": 130,
    " REASON FOR EXAMINATION:  {c}\n \n {f}\n \n {i}\n": 100,
    " CHEST, TWO VIEWS:  ___\n \n HISTORY:  {c}\n \n FINDINGS AND IMPRESSION:  {f}  {i}\n": 40,
    " PORTABLE AP CHEST RADIOGRAPH:  {f}\n \n CONCLUSION:  {i}\n": 40,
    " FINDINDGS:  {f}\n \n IMPRESSON:  {i}\n \n ADDENDUM:  {c}\n \n IMPRESSION:  {i}\n": 20,
    " COMPARISON:  {c} {f}\n": 20,
}
SIDES, PLACES = ("left", "right", "bilateral"), ("base", "mid lung", "apex", "hilum", "lower lobe")
CLAUSES = ("{} cough and fever", "{} chest pain", "{} shortness of breath", "Evaluate {} line placement")
SENTENCES = (
    "There is {size} {side} pleural effusion with adjacent atelectasis.",
    "Heart size is {size}ly enlarged, unchanged since the prior study of ___.",
    "The {side} {place} shows {size} opacity which may reflect atelectasis or infection.",
    "No focal consolidation, pleural effusion, or pneumothorax is seen at the {side} {place}.",
    "The cardiomediastinal and hilar contours are within normal limits.",
    "Endotracheal tube terminates {n}.{n} cm above the carina.",
    "There is {size} vascular congestion without overt pulmonary edema.",
)


def write_copy(folder: Path, part: float, *, packed: bool = True, seed: int = 0) -> None:
    """Write index files, report files and empty image files. One report in 500 is missing.

    Args:
        folder: of the copy.
        part: share of the data set, (0, 1].
        packed: write the reports a second time, into mimic-cxr-reports.zip.
        seed: of the content.
    """
    patients, studies, images = (max(1, round(count * part)) for count in (PATIENTS, STUDIES, IMAGES))
    generator = np.random.default_rng(seed)
    patient_of = np.sort(
        np.concatenate([np.arange(patients), generator.integers(patients, size=studies - patients)])
    )
    study_of = np.sort(
        np.concatenate([np.arange(studies), generator.integers(studies, size=images - studies)])
    )
    patient_ids = 10_000_000 + np.sort(generator.choice(9_999_999, patients, replace=False))
    study_ids = 50_000_000 + generator.choice(9_999_999, studies, replace=False)
    names = [
        "-".join(digits[start : start + 8] for start in range(0, 40, 8))
        for digits in (generator.bytes(20).hex() for _ in range(images))
    ]  # five groups of eight hexadecimal digits
    patient, study = patient_ids[patient_of[study_of]], study_ids[study_of]
    split = np.full(patients, "train", dtype="<U8")
    split[generator.choice(patients, max(2, patients // 80), replace=False)] = "test"
    split[generator.choice(patients, max(2, patients // 130), replace=False)] = "validate"
    share = np.array(list(VIEWS.values()), float)
    ids = {"dicom_id": names, "subject_id": patient, "study_id": study}
    metadata = pl.DataFrame(
        {
            **ids,
            "PerformedProcedureStepDescription": ["CHEST (PA AND LAT)"] * images,
            "ViewPosition": generator.choice(list(VIEWS), images, p=share / share.sum()),
            "Rows": [RADIOGRAPH[0]] * images,
            "Columns": [RADIOGRAPH[1]] * images,
            "StudyDate": generator.integers(21_000_101, 22_001_231, images),
            "StudyTime": generator.uniform(0, 240_000, images).round(3),
        }
    )
    values = generator.choice(["", "1.0", "0.0", "-1.0"], (len(LABELS), studies), p=[0.8, 0.1, 0.07, 0.03])
    labels = {
        "subject_id": patient_ids[patient_of],
        "study_id": study_ids,
        **dict(zip(LABELS, values, strict=True)),
    }
    write_index(folder / "mimic-cxr-2.0.0-metadata.csv.gz", metadata)
    write_index(
        folder / "mimic-cxr-2.0.0-split.csv.gz", pl.DataFrame({**ids, "split": split[patient_of[study_of]]})
    )
    write_index(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", pl.DataFrame(labels))
    folders = [f"files/p{p // 1_000_000}/p{p}" for p in patient_ids]
    paths = [
        f"{folders[patient_of[s]]}/s{study_ids[s]}/{name}.jpg"
        for s, name in zip(study_of, names, strict=True)
    ]
    write_images(folder, paths)
    paths = [f"{folders[p]}/s{s}.txt" for p, s in zip(patient_of, study_ids, strict=True)]
    write_reports(folder, paths, packed, seed)


def write_index(path: Path, frame: pl.DataFrame) -> None:
    """Write a gzipped CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb", compresslevel=1) as file:
        frame.write_csv(file)


def write_images(folder: Path, paths: list[str]) -> None:
    """Write an empty file for each image, and SHA256SUMS.txt."""
    made = set()
    for path in paths:
        place = folder / path
        if place.parent not in made:
            place.parent.mkdir(parents=True, exist_ok=True)
            made.add(place.parent)
        place.touch()
    sums = (f"{hashlib.sha256(path.encode()).hexdigest()} {path}\n" for path in paths)
    (folder / "SHA256SUMS.txt").write_text("".join(sums), encoding="utf-8")


def write_reports(folder: Path, paths: list[str], packed: bool, seed: int) -> None:
    """Write a report for each path but one in 500; `packed` also into one zip file."""
    archive = zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) if packed else None
    for number, (path, text) in enumerate(zip(paths, synthetic_reports(seed), strict=False)):
        if number % 500 == 0:
            continue
        (folder / path).write_text(text, encoding="utf-8")
        if archive:
            archive.writestr(path, text)
    if archive:
        archive.close()


def synthetic_reports(seed: int) -> Iterator[str]:
    """Yield report texts without end: some 700 characters each, with headers and line breaks of the data set."""
    generator = random.Random(seed)

    def sentences(count: int) -> str:
        chosen = [
            template.format(
                size=generator.choice(("mild", "moderate", "severe")),
                side=generator.choice(SIDES),
                place=generator.choice(PLACES),
                n=generator.randrange(1, 9),
            )
            for template in generator.sample(SENTENCES, count)
        ]
        return "\n ".join(textwrap.wrap("  ".join(chosen), 75))

    findings, impressions = ([sentences(count) for _ in range(POOL)] for count in (5, 2))
    layouts, weights = list(REPORTS), list(REPORTS.values())
    while True:
        yield (
            " " * 33
            + "FINAL REPORT\n"
            + generator.choices(layouts, weights)[0].format(
                f=generator.choice(findings),
                i=generator.choice(impressions),
                c=generator.choice(CLAUSES).format("___ year old man with"),
            )
        )


def write_radiographs(folder: Path, count: int, distinct: int = 8, seed: int = 0) -> list[str]:
    """Write `count` JPEG files, of which `distinct` differ and the others are hard links; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    rows, columns = RADIOGRAPH
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j].astype(np.float32)
    names = [f"{number:06d}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        if number >= distinct:
            (folder / name).hardlink_to(folder / names[number % distinct])
            continue
        a, b, c = generator.uniform(3, 9, 3)
        image = 128 + 50 * np.sin(a * x) * np.cos(b * y) + 20 * np.sin(c * 12 * (x + y))
        image += generator.normal(0, GRAIN, image.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / name, quality=95)
    return names
