"""The phantom on disk has the official layout, with the damage of the real world."""

import csv
import gzip
import hashlib
import io
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from medunifier.phantom.anatomy import draw_anatomy
from medunifier.phantom.damage import damage
from medunifier.phantom.findings import Finding
from medunifier.phantom.mimic_layout import MimicWriter
from medunifier.phantom.reports import Facts
from medunifier.phantom.studies import generate_patient, render_view

PATIENTS, SIZE, SEED = 60, 48, 5
STUDIES = [generate_patient(SEED, number, SIZE) for number in range(PATIENTS)]


def write(root: Path, patients=STUDIES) -> MimicWriter:
    writer = MimicWriter(root, len(patients), SIZE, SEED)
    for studies in patients:
        writer.add_patient(studies)
    writer.write_indexes()
    return writer


def rows(writer: MimicWriter, name: str) -> list[dict[str, str]]:
    with gzip.open(writer.images / f"mimic-cxr-2.0.0-{name}.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


def jpg_path(writer: MimicWriter, row: dict[str, str]) -> Path:
    subject = row["subject_id"]
    folder = writer.images / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{row['study_id']}"
    return folder / f"{row['dicom_id']}.jpg"


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> MimicWriter:
    return write(tmp_path_factory.mktemp("intact"))


def test_index_files_have_the_official_columns(intact):
    assert list(rows(intact, "metadata")[0]) == [
        "dicom_id",
        "subject_id",
        "study_id",
        "PerformedProcedureStepDescription",
        "ViewPosition",
        "Rows",
        "Columns",
        "StudyDate",
        "StudyTime",
        "ProcedureCodeSequence_CodeMeaning",
        "ViewCodeSequence_CodeMeaning",
        "PatientOrientationCodeSequence_CodeMeaning",
    ]
    assert list(rows(intact, "split")[0]) == ["dicom_id", "study_id", "subject_id", "split"]
    labels = "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion"
    labels += ",Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
    for name in ("chexpert", "negbio"):
        table = rows(intact, name)
        assert list(table[0]) == ["subject_id", "study_id", *labels.split(",")]
        values = Counter(row[label] for row in table for label in labels.split(","))
        assert set(values) == {"1.0", "0.0", "-1.0", ""}


def test_files_lie_where_the_index_says_and_nowhere_else(intact):
    table = rows(intact, "metadata")
    paths = {jpg_path(intact, row) for row in table}
    assert paths == set(intact.images.glob("files/**/*.jpg")) and len(paths) == len(table)
    for row in table:
        assert re.fullmatch(r"1\d{7}", row["subject_id"]) and re.fullmatch(r"5\d{7}", row["study_id"])
        assert re.fullmatch(r"([0-9a-f]{8}-){4}[0-9a-f]{8}", row["dicom_id"])
        assert re.fullmatch(r"2[12]\d{6}", row["StudyDate"]) and re.fullmatch(
            r"\d{6}\.\d{3}", row["StudyTime"]
        )
        image = Image.open(jpg_path(intact, row))
        assert image.mode == "L" and image.size == (int(row["Columns"]), int(row["Rows"])) == (SIZE, SIZE)
    reports = {
        intact.reports / "files" / f"p{r['subject_id'][:2]}" / f"p{r['subject_id']}" / f"s{r['study_id']}.txt"
        for r in table
    }
    assert reports == set(intact.reports.glob("files/**/*.txt"))


def test_studies_hang_together_across_the_index_files(intact):
    split = {row["dicom_id"]: row for row in rows(intact, "split")}
    patients_of_split = defaultdict(set)
    for row in rows(intact, "metadata"):
        other = split.pop(row["dicom_id"])
        assert (other["subject_id"], other["study_id"]) == (row["subject_id"], row["study_id"])
        patients_of_split[other["split"]].add(row["subject_id"])
    assert not split
    assert {name: len(group) for name, group in patients_of_split.items()} == {
        "train": PATIENTS - 12,
        "validate": 5,
        "test": 7,
    }
    assert len(set.union(*patients_of_split.values())) == PATIENTS
    assert Counter(len(studies) for studies in STUDIES)[2] > 0


def test_labels_on_disk_are_those_of_the_reports(intact):
    labels = {row["study_id"]: row for row in rows(intact, "chexpert")}
    by_text = {path.read_text(): path.stem[1:] for path in intact.reports.glob("files/**/*.txt")}
    for study in (study for studies in STUDIES for study in studies):
        row = labels.get(by_text[study.report.text])
        if study.report.labels is None:
            assert row is None
            continue
        assert {k: float(v) for k, v in row.items() if v and not k.endswith("_id")} == study.report.labels


def test_checksums_and_truth_cover_every_image(intact):
    lines = (intact.images / "SHA256SUMS.txt").read_text().splitlines()
    listed = dict(reversed(line.split(maxsplit=1)) for line in lines)
    found = {
        str(path.relative_to(intact.images)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in intact.images.glob("**/*")
        if path.is_file() and path.name != "SHA256SUMS.txt"
    }
    assert listed == found
    truth = pl.read_parquet(intact.images.parent / "truth.parquet")
    assert set(truth["image_id"]) == {row["dicom_id"] for row in rows(intact, "metadata")}
    assert intact.counts["studies_edema"] == truth.filter(pl.col("edema") > 0)["study_id"].n_unique() > 0
    assert intact.counts["images"] == len(truth)


def test_index_files_carry_no_time_stamp(intact):
    for path in intact.images.glob("*.csv.gz"):
        assert path.read_bytes()[4:8] == b"\0\0\0\0", "gzip's mtime field"


def test_views_are_many_and_mostly_frontal():
    views = Counter(
        radiograph.view
        for number in range(300)
        for study in STUDIES[number % PATIENTS]
        for radiograph in study.radiographs
    )
    assert views["PA"] > views["AP"] > 0 and views["LATERAL"] > 0 and views["LL"] > 0
    assert views["PA"] + views["AP"] > 0.7 * views.total()


def test_the_side_a_patient_lies_on_is_down():
    anatomy = draw_anatomy(np.random.default_rng(0))
    fluid = (Finding("pleural_effusion", "left", "lower", 3),)
    for view, lower in (("AP LLD", True), ("PA RLD", False)):
        with_fluid, without = (
            render_view(Facts(anatomy, findings, "none", True), view, [1], 96).astype(float)
            for findings in (fluid, ())
        )
        rows = np.abs(with_fluid - without).sum(axis=1)
        assert (rows[48:].sum() > rows[:48].sum()) == lower


def test_identifiers_follow_from_the_report_and_not_from_pixels(tmp_path):
    """Pixels differ in the last bit between processors; splits and benchmark are chosen by identifiers."""
    from dataclasses import replace

    study = STUDIES[0][0]
    reworded = replace(study, report=replace(study.report, text=study.report.text + " Thank you.\n"))
    radiograph = replace(study.radiographs[0], jpg=study.radiographs[0].jpg + b"\0")
    repainted = replace(study, radiographs=(radiograph, *study.radiographs[1:]))
    ids = []
    for name, version in (("a", study), ("b", reworded), ("c", repainted)):
        row = rows(write(tmp_path / name, [(version,)]), "metadata")
        ids.append(({r["study_id"] for r in row}, {r["dicom_id"] for r in row}))
    assert ids[1][0] != ids[0][0] and not ids[1][1] & ids[0][1]
    assert ids[2] == ids[0]


def test_damage_leaves_files_that_no_reader_takes_for_whole(tmp_path):
    writer = write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("**/*") if path.is_file()}
    counts = damage(writer.images, writer.reports, SEED)
    after = {path: path.read_bytes() for path in tmp_path.glob("**/*") if path.is_file()}
    lost = set(before) - set(after)
    changed = {path for path in after if after[path] != before[path]}
    truncated, recoded = ({p for p in changed if p.suffix == suffix} for suffix in (".jpg", ".txt"))
    assert counts == {
        "images_truncated": len(truncated),
        "images_missing": sum(path.suffix == ".jpg" for path in lost),
        "reports_missing": sum(path.suffix == ".txt" for path in lost),
        "reports_latin1": len(recoded),
    }
    assert min(counts.values()) >= 1 and len(lost) + len(changed) == sum(counts.values())
    for path in truncated:
        with pytest.raises(OSError, match="truncated"):
            np.asarray(Image.open(io.BytesIO(after[path])))
    for path in recoded:
        with pytest.raises(UnicodeDecodeError):
            after[path].decode("utf-8")
        assert "39 °C" in after[path].decode("latin-1")
