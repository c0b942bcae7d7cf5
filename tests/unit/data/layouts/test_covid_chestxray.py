import csv

import pytest

from medunifier.data.dataset_files import locate_images
from medunifier.data.layouts import RAW_IMAGES, RAW_REPORTS, covid_chestxray
from medunifier.data.layouts.covid_chestxray import LABELS, finding_labels
from medunifier.data.preparation.rejects import Selection
from medunifier.data.preparation.rules import keep_wanted_images
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset, Index
from tests.support.fake_mimic import write_csv
from tests.support.paths import SHARED

REAL = SHARED / "data" / "covid-chestxray"


def settings(root):
    return Dataset(
        layout="covid_chestxray",
        root=str(root),
        reports=None,
        index=Index(**dict.fromkeys(Index.model_fields, "metadata.csv")),
        views=("PA", "AP", "AP Supine"),
        sections="either",
        section_order="findings_first",
        split="patient",
        split_fractions=(0.7, 0.1, 0.2),
        benchmark=None,
    )


def row(**changes):
    return {
        "patientid": "2", "offset": "0", "finding": "Pneumonia/Viral/COVID-19", "view": "PA",
        "modality": "X-ray", "folder": "images", "filename": "a.jpg",
        "clinical_notes": "Both lungs\n  are hazy.", **changes,
    }  # fmt: skip


def test_rows_become_images_with_their_notes_as_findings(tmp_path):
    write_csv(tmp_path / "metadata.csv", [
        row(),
        row(filename="b.png", view="Axial", modality="CT", folder="volumes", finding="todo"),
        row(filename="c.jpg", clinical_notes="  ", finding="No Finding"),
    ])  # fmt: skip
    raw = covid_chestxray.read_images(settings(tmp_path))
    RAW_IMAGES.check(raw.rows, "test")
    assert raw.rows["image_path"].to_list() == ["images/a.jpg", "volumes/b.png", "images/c.jpg"]
    assert raw.rows["reason"].to_list() == [None, "other_modality", None]
    assert raw.rows["detail"][1] == "modality is CT"
    assert raw.rows.select(LABELS).rows() == [(0, 0, 1), (None, None, None), (1, 0, 0)]
    reports = covid_chestxray.read_reports(settings(tmp_path), raw.rows)
    RAW_REPORTS.check(reports.rows, "test")
    assert reports.rows["findings"].to_list() == ["Both lungs are hazy.", "Both lungs are hazy.", None]
    assert reports.rows["impression"].null_count() == 3


@pytest.mark.parametrize(
    ("finding", "expected"),
    [
        ("COVID-19", (0, 0, 1)),
        ("COVID-19, ARDS", (0, 0, 1)),
        ("Pneumonia/Viral/COVID-19", (0, 0, 1)),
        ("Pneumonia/Viral/SARS", (0, 1, 0)),
        ("Pneumonia", (0, 1, 0)),
        ("Pneumocystis", (0, 1, 0)),
        ("Mycoplasma Bacterial Pneumonia", (0, 1, 0)),
        ("Pneumonia/Bacterial/Staphylococcus/MRSA", (0, 1, 0)),
        ("No Finding", (1, 0, 0)),
        ("Tuberculosis", (0, 0, 0)),
        ("ARDS", (0, 0, 0)),
        ("Unknown", (None, None, None)),
        ("todo", (None, None, None)),
        (None, (None, None, None)),
    ],
)
def test_findings_are_paths_in_later_versions_and_names_in_earlier_ones(finding, expected):
    assert finding_labels(finding) == expected


def test_a_wrong_column_is_named(tmp_path):
    write_csv(tmp_path / "metadata.csv", [{"patient": "1", "filename": "a.jpg"}])
    with pytest.raises(InputError, match=r"metadata\.csv: no column 'patientid', .* found patient, filename"):
        covid_chestxray.read_images(settings(tmp_path))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data set is not at {REAL}")
def test_the_real_index_reads_whole():
    rows = covid_chestxray.read_images(settings(REAL)).rows
    with (REAL / "metadata.csv").open(encoding="utf-8", newline="") as file:
        index = list(csv.DictReader(file))
    assert rows["image_id"].to_list() == [row["filename"] for row in index]
    sums = dict(zip(LABELS, rows.select(LABELS).sum().row(0), strict=True))
    assert sums["label_no_finding"] == sum(row["finding"] == "No Finding" for row in index)
    assert sums["label_covid_19"] == sum("COVID-19" in row["finding"] for row in index)
    assert sums["label_other_pneumonia"] > 0
    assert all((REAL / path).is_file() for path in rows["image_path"])


def test_a_folder_or_file_name_that_leaves_the_root_is_no_image(tmp_path):
    secret = tmp_path / "outside/secret.jpg"
    secret.parent.mkdir()
    secret.write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    rows = [
        row(folder="../outside", filename="secret.jpg"),
        row(filename="../../outside/secret.jpg"),
        row(filename=str(secret)),
    ]
    write_csv(root / "metadata.csv", rows)
    raw = covid_chestxray.read_images(settings(root))
    located = locate_images(raw.rows, root)
    assert located["bytes"].null_count() == 3
    assert located["reason"].to_list()[:2] == ["outside_root"] * 2


def test_a_missing_patient_is_rejected_and_ids_are_normalised(tmp_path):
    write_csv(tmp_path / "metadata.csv", [
        row(patientid="3.0"), row(patientid=" 3", filename="b.jpg"), row(patientid="nan", filename="c.jpg"),
    ])  # fmt: skip
    raw = covid_chestxray.read_images(settings(tmp_path))
    assert raw.rows["patient_id"].to_list() == ["3", "3", None] and raw.notes["missing_words_patientid"] == 1
    selection = Selection(raw.rows)
    keep_wanted_images(selection, settings(tmp_path))
    assert selection.counts() == {"missing_image": 2, "missing_patient": 1}


def test_rows_of_one_image_with_different_notes_are_told(tmp_path):
    write_csv(tmp_path / "metadata.csv", [row(), row(clinical_notes="Clear.")])
    images = covid_chestxray.read_images(settings(tmp_path)).rows.head(1)
    raw = covid_chestxray.read_reports(settings(tmp_path), images)
    assert raw.rows["findings"].to_list() == ["Both lungs are hazy."]
    assert raw.notes == {"images_with_different_notes": 1} and "first counts: a.jpg" in raw.warnings[0]
