"""The copies of benchmarks/mimic_size.py are MIMIC-CXR-JPG to the adapter; the measurements agree with each other."""

import polars as pl
import pytest

from benchmarks import dataset_measurements, mimic_size
from medunifier.data.layouts import mimic_cxr

PART = 0.0005


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mimic_size, "POOL", 20)
        mimic_size.write_copy(folder, PART)
    return str(folder)


def test_a_copy_has_the_layout_and_its_share_of_the_size(copy):
    _, settings = dataset_measurements.settings(copy)
    raw = mimic_cxr.read_images(settings)
    counts = [raw.rows[column].n_unique() for column in ("patient_id", "study_id", "image_id")]
    sizes = (mimic_size.PATIENTS, mimic_size.STUDIES, mimic_size.IMAGES)
    assert counts == [round(size * PART) for size in sizes]
    assert raw.rows["sha256"].null_count() == 0 and sum(raw.notes.values()) == 0
    assert set(raw.rows["split"]) == {"train", "validate", "test"}
    reports = mimic_cxr.read_reports(settings, raw.rows).rows
    assert reports["reason"].drop_nulls().to_list() == ["missing_report"]
    assert reports.filter(pl.col("findings").is_null() & pl.col("impression").is_null()).height > 5


def test_sections_are_the_same_from_folder_zip_and_the_plain_way(copy):
    ways = [
        dataset_measurements.plain_sections(copy),
        dataset_measurements.sections(copy),
        dataset_measurements.sections(f"{copy}/mimic-cxr-reports.zip"),
    ]
    assert len({way["digest"] for way in ways}) == 1


def test_radiographs_differ_only_as_often_as_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(mimic_size, "RADIOGRAPH", (40, 30))
    names = mimic_size.write_radiographs(tmp_path, 5, distinct=2)
    contents = [(tmp_path / name).read_bytes() for name in names]
    assert contents[0] == contents[2] == contents[4] != contents[1] == contents[3]
