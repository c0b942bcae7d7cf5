"""covid-chestxray-dataset (Cohen et al. 2020): metadata.csv, images/. Clinical notes serve as the report.

Each image is a study of its own: notes belong to a row, and rows of one patient and day may differ.
"""

import re
from pathlib import Path

import polars as pl

from medunifier.data.index_files import contradictions, read_index, some
from medunifier.data.layouts import RAW_REPORTS, Raw, raw_images
from medunifier.data.preparation.rejects import Reason
from medunifier.data.preparation.sections import clean_text
from medunifier.runtime.params import Dataset

SOURCE = "git clone https://github.com/ieee8023/covid-chestxray-dataset (free)"
# `finding` is a path in later versions (Pneumonia/Viral/COVID-19) and a single name in earlier ones, where the
# data set's CONTRIBUTING.md calls it the type of pneumonia: these causes occur without the word pneumonia.
_CAUSES = {
    "aspergillosis", "aspiration", "bacterial", "chlamydophila", "e.coli", "fungal", "h1n1", "herpes",
    "influenza", "klebsiella", "legionella", "lipoid", "mers-cov", "mrsa", "mycoplasma", "nocardia",
    "pneumocystis", "sars", "staphylococcus", "streptococcus", "varicella", "viral",
}  # fmt: skip
_UNNAMED = {"", "todo", "unknown"}
LABELS = ("label_no_finding", "label_other_pneumonia", "label_covid_19")


def read_images(settings: Dataset) -> Raw:
    """Return every row of metadata.csv. The data set has no official split."""
    columns = ["patientid", "finding", "view", "modality", "folder", "filename"]
    path = Path(settings.root) / settings.index.images
    notes: dict[str, int] = {}
    index = read_index(path, columns, filled=["folder", "filename"], ids=["patientid"], notes=notes)
    other = pl.when(pl.col("modality").ne_missing("X-ray"))
    modality = pl.format("modality is {}", pl.col("modality").fill_null("blank"))
    findings = [finding_labels(finding) for finding in index["finding"]]
    rows = index.select(
        pl.col("filename").alias("image_id"),
        pl.col("patientid").alias("patient_id"),
        pl.col("filename").alias("study_id"),
        pl.format("{}/{}", "folder", "filename").alias("image_path"),
        "view",
        other.then(pl.lit(Reason.OTHER_MODALITY.value)).alias("reason"),
        other.then(modality).alias("detail"),
        *(
            pl.Series(label, values, pl.Int8)
            for label, values in zip(LABELS, zip(*findings, strict=True), strict=True)
        ),
    )
    return Raw(raw_images(rows), notes | {"images_without_labels": findings.count((None, None, None))})


def read_reports(settings: Dataset, images: pl.DataFrame) -> Raw:
    """Return the clinical notes of each image as findings; the data set has no impressions."""
    path = Path(settings.root) / settings.index.images
    notes: dict[str, int] = {}
    index = read_index(path, ["filename", "clinical_notes"], filled=["filename"], notes=notes)
    index = index.with_columns(
        pl.Series("clinical_notes", map(clean_text, index["clinical_notes"]), pl.String)
    )
    index = index.rename({"filename": "study_id", "clinical_notes": "findings"}).unique(maintain_order=True)
    warnings = []
    if len(differing := contradictions(index, "study_id")):
        notes["images_with_different_notes"] = len(differing)
        warnings.append(
            f"{path}: {len(differing)} images have rows with different clinical_notes, of which the first counts: "
            f"{some(differing['study_id'].to_list())}"
        )
    first = index.unique("study_id", keep="first", maintain_order=True)
    texts = images.select("study_id").join(first, on="study_id", how="left", maintain_order="left")
    return Raw(pl.concat([RAW_REPORTS.empty(), texts], how="diagonal"), notes, warnings)


def finding_labels(finding: str | None) -> tuple[int | None, int | None, int | None]:
    """Return the values of LABELS for a `finding`: the three classes of COVIDx, at most one of them 1.

    All are 0 for another disease (ARDS alone, tuberculosis) and null where the finding is unknown.
    """
    names = {name.strip().lower() for name in re.split("[/,]", finding or "")}
    if names <= _UNNAMED:
        return None, None, None
    if "covid-19" in names:
        return 0, 0, 1
    if names & _CAUSES or any("pneumonia" in name for name in names):
        return 0, 1, 0
    return int("no finding" in names), 0, 0
