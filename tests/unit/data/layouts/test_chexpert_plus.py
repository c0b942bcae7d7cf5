import shutil

import pytest

from medunifier.data.layouts import chexpert_plus
from medunifier.runtime.errors import InputError
from tests.support.fake_chexpert_plus import LABELS, TABLE, FakeChexpertPlus
from tests.support.fake_files import put, read_both


@pytest.fixture
def fake(tmp_path):
    fake = FakeChexpertPlus(tmp_path)
    report = {"findings": "\nHeart size is\nnormal.", "impression": "1. No acute disease."}
    fake.add(1, **report, edema=1.0, pneumonia=-1.0, no_finding=0.0)
    fake.add(1, view=2, side="lateral", ap="", **report)
    fake.add(1, study=2, impression="\n1. EDEMA, said the\nresident.", fracture=float("nan"))
    fake.add(64541, split="valid", impression="Clear lungs.")
    return fake


def read(fake, **changes):
    fake.write()
    raw, texts = read_both(chexpert_plus, fake.settings(**changes))
    return raw, texts.rows


def test_ids_views_and_the_validation_patients_as_test_split(fake):
    rows = read(fake)[0].rows
    assert rows["image_id"][1] == "train/patient00001/study1/view2_lateral.jpg"
    assert rows["patient_id"].to_list() == ["patient00001"] * 3 + ["patient64541"]
    assert rows["study_id"].to_list() == [
        "patient00001/study1", "patient00001/study1", "patient00001/study2", "patient64541/study1",
    ]  # fmt: skip
    assert rows["view"].to_list() == ["AP", "LATERAL", "AP", "AP"]
    assert rows["split"].to_list() == [None, None, None, "test"]


def test_sections_with_line_ends_and_quotes_are_read_once_a_study(fake):
    texts = read(fake)[1]
    assert texts.select("study_id", "findings", "impression").rows() == [
        ("patient00001/study1", "Heart size is normal.", "1. No acute disease."),
        ("patient00001/study2", None, "1. EDEMA, said the resident."),
        ("patient64541/study1", None, "Clear lungs."),
    ]
    assert texts["reason"].null_count() == 3


def test_images_of_one_study_with_different_reports_reject_it(fake):
    fake.rows[1]["section_impression"] = "Another one."
    texts = read(fake)[1]
    assert texts.filter(study_id="patient00001/study1").select("reason", "detail").row(0) == (
        "contradictory_report", "2 different reports",
    )  # fmt: skip
    assert len(texts) == 3


def test_labels_of_the_json_file(fake):
    del fake.labels[3]
    raw, _ = read(fake)
    columns = ("label_edema", "label_pneumonia", "label_no_finding", "label_fracture")
    assert raw.rows.select(columns).rows() == [(1, -1, 0, None), (None,) * 4, (None,) * 4, (None,) * 4]
    assert raw.notes == {"images_without_labels": 1}
    assert len(raw.warnings) == 1 and f"{LABELS}: 1 of 4 values of 'image_id' have no row" in raw.warnings[0]
    assert sum(name.startswith("label_") for name in raw.rows.columns) == 14


def test_no_labels_where_the_role_names_the_table(fake):
    fake.write()
    settings = fake.settings()
    settings = settings.replace(index=settings.index.replace(labels=TABLE))
    assert not any(name.startswith("label_") for name in chexpert_plus.read_images(settings).rows.columns)


@pytest.mark.parametrize(
    ("folder", "suffix"),
    [("PNG", ".png"), ("DICOM/Uncompressed", ".dcm"), ("CheXpert-v1.0-small", ".jpg"), (".", ".png")],
)
def test_images_are_found_where_the_releases_put_them(fake, folder, suffix):
    source, target = fake.root / "PNG", fake.root / folder
    for path in sorted(source.rglob("*.png")):
        put(target / path.relative_to(source).with_suffix(suffix), path.read_bytes())
    if folder != "PNG":
        shutil.rmtree(source)
    rows = read(fake)[0].rows
    assert all((fake.root / path).is_file() and path.endswith(suffix) for path in rows["image_path"])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("path_to_image", "train/../../other/x.jpg", "is 'train/../../other/x.jpg', first in line 2"),
        ("split", "fold1", "is 'fold1', first in line 2; 1 rows are not as expected: train or valid"),
        ("frontal_lateral", "Oblique", "is 'Oblique', first in line 2; 1 rows"),
    ],
)
def test_rows_that_cannot_be_used(fake, column, value, message):
    fake.rows[0][column] = value
    with pytest.raises(InputError, match=f"{TABLE}: {column} {message}"):
        read(fake)


@pytest.mark.parametrize(
    "line",
    [
        '{"path_to_image": "a"}',
        "[1]",
        '{"path_to_image"',
        '{"Edema": 1}',
        '{"path_to_image": "a", "Edema": 2}',
        r'{"path_to_image": "a\ud800", "Edema": 1}',
    ],
)
def test_a_broken_line_of_the_labels_is_named(fake, line):
    fake.write()
    path = fake.root / LABELS
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=f"{LABELS}, line 5: expected a JSON object with path_to_image"):
        chexpert_plus.read_images(fake.settings())


def test_an_image_labelled_twice_in_different_ways_is_refused(fake):
    fake.labels.append({**fake.labels[0], "Edema": 0.0})
    with pytest.raises(
        InputError, match=f"{LABELS}: 1 values of 'image_id' have rows that contradict each other"
    ):
        read(fake)
