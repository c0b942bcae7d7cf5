"""PadChest-GR (Castro et al. 2024): grounded_reports_20240819.json, master_table.csv, 16-bit PNG files.

index.images: the JSON file, a list of studies, each with one image: `StudyID`, `ImageID` and `findings`, a list of
    sentences with `sentence_en`, `sentence_es`, `abnormal` and, mostly where abnormal, `labels` and boxes.
index.split: master_table.csv, one row a finding: `StudyID`, `PatientID`, `split` (train, validation, test).

The English sentences in their order are the findings; Spanish sentences and boxes are not read. A label is 1 where an
abnormal sentence lists it, else 0. All images are frontal; which are AP is not listed. Images are looked for where
Padchest_GR_files/PadChest_GR.zip unpacks them.

Sources: Castro et al. 2024 (arXiv 2411.05085: 4 555 frontal studies, sentences, languages); fields, columns and folders as
public code reads them (RadVLM, PadChest_grounding; KafGround's data page) and as listings of the release of 2024-08-19 in
public repositories give them. The images of earlier studies (PadChest_GR_progression_prior_studies) are not read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from medunifier.data.index_files import check_match, check_values, one_row_each, read_index
from medunifier.data.layouts import Raw, raw_images
from medunifier.data.raw_rows import listed_labels, one_report_each, paths_found, read_json
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SOURCE = "https://bimcv.cipf.es/bimcv-projects/padchest-gr/ (free after a request)"
FOLDERS = ("Padchest_GR_files/PadChest_GR/", "Padchest_GR_files/", "PadChest_GR/", "")
_SPLITS = {"train": "train", "validation": "validate", "test": "test"}


def read_images(settings: Dataset) -> Raw:
    """Return the image of every study with its official split; a study that the table lacks has no patient."""
    root = Path(settings.root)
    studies = _read_studies(root / settings.index.images)
    table = _read_table(root / settings.index.split)
    ids = pl.DataFrame(
        [(study["ImageID"], study["StudyID"]) for study in studies],
        {"image_id": pl.String, "study_id": pl.String},
        orient="row",
    )
    files = (root / settings.index.images, root / settings.index.split)
    warnings = check_match(ids, table, "study_id", files)
    forms = [pl.format(f"{folder}{{}}", "image_id") for folder in FOLDERS]
    rows = ids.with_columns(paths_found(root, ids, forms), pl.lit("Frontal").alias("view"))
    rows = rows.join(table, on="study_id", how="left", maintain_order="left")
    labels = listed_labels([_labels(study) for study in studies])
    return Raw(raw_images(pl.concat([rows, labels], how="horizontal")), {}, warnings)


def read_reports(settings: Dataset, images: pl.DataFrame) -> Raw:
    """Return the English sentences of each study, joined, as its findings."""
    studies = _read_studies(Path(settings.root) / settings.index.images)
    wanted = set(images["study_id"])
    rows, untranslated = [], 0
    for study in studies:
        if study["StudyID"] in wanted:
            sentences = [finding.get("sentence_en") or "" for finding in study["findings"]]
            untranslated += sum(not sentence.strip() for sentence in sentences)
            rows.append((study["StudyID"], " ".join(sentences)))
    texts = pl.DataFrame(rows, {"study_id": pl.String, "findings": pl.String}, orient="row")
    return Raw(one_report_each(texts), {"sentences_without_english": untranslated})


def _read_studies(path: Path) -> list[dict[str, Any]]:
    """Return the studies of the JSON file, their `findings` a list."""
    studies = read_json(path)
    if not isinstance(studies, list):
        raise InputError(f"{path}: expected a JSON list of studies")
    for number, study in enumerate(studies, 1):
        if not (isinstance(study, Mapping) and study.get("StudyID") and study.get("ImageID")):
            raise InputError(f"{path}, study {number}: expected an object with StudyID, ImageID and findings")
        findings = study.get("findings") or []
        if not (isinstance(findings, list) and all(map(_is_finding, findings))):
            raise InputError(
                f"{path}, study {number}: findings are not a list of objects with a text `sentence_en` and a list of "
                "texts `labels`"
            )
    ids = {"StudyID": str, "ImageID": str, "findings": lambda findings: findings or []}
    return [{name: read(study.get(name)) for name, read in ids.items()} for study in studies]


def _is_finding(finding: Any) -> bool:
    """Return whether a finding has the fields that are read, or null in their place."""
    if not isinstance(finding, Mapping):
        return False
    sentence, labels = finding.get("sentence_en"), finding.get("labels") or []
    texts = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    return texts and (sentence is None or isinstance(sentence, str))


def _read_table(path: Path) -> pl.DataFrame:
    """Return `study_id`, `patient_id` and `split` of each study of master_table.csv."""
    columns = {"StudyID": "study_id", "PatientID": "patient_id", "split": "split"}
    table = read_index(path, list(columns), filled=["StudyID", "split"], ids=["StudyID", "PatientID"])
    table = one_row_each(table, "StudyID", path)
    check_values(table, "split", pl.col("split").is_in(list(_SPLITS)), "train, validation or test", path)
    return table.rename(columns).with_columns(pl.col("split").replace(_SPLITS))


def _labels(study: dict[str, Any]) -> set[str]:
    """Return the labels of the abnormal sentences of a study."""
    return {
        label
        for finding in study["findings"]
        if finding.get("abnormal")
        for label in finding.get("labels") or []
    }
