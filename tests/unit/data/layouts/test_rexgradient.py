import json

import pytest

from medunifier.data.layouts import rexgradient
from medunifier.data.preparation.rejects import Selection
from medunifier.data.preparation.rules import keep_wanted_images
from medunifier.runtime.errors import InputError
from tests.support.fake_files import put, read_both
from tests.support.fake_rexgradient import FILE, FakeRexgradient


@pytest.fixture
def fake(tmp_path):
    fake = FakeRexgradient(tmp_path)
    fake.add(1)
    fake.add(2, views=("POSTERO_ANTERIOR", "LL", "UNKNOWN"))
    fake.add(3, "valid", views=("AP",))
    fake.add(4, "test", Findings="nan", Impression=float("nan"))
    return fake


def read(fake, **changes):
    fake.write()
    raw, texts = read_both(rexgradient, fake.settings(**changes))
    return raw, texts.rows


def test_every_image_of_a_study_has_its_view_and_the_split_of_its_file(fake):
    raw, _ = read(fake)
    assert raw.rows.select("patient_id", "view", "split").rows() == [
        ("GRDN0001", "PA", "train"), ("GRDN0001", "LATERAL", "train"),
        ("GRDN0002", "PA", "train"), ("GRDN0002", "LL", "train"), ("GRDN0002", None, "train"),
        ("GRDN0003", "AP", "validate"), ("GRDN0004", "PA", "test"), ("GRDN0004", "LATERAL", "test"),
    ]  # fmt: skip
    assert all((fake.root / path).is_file() for path in raw.rows["image_path"])
    assert raw.rows["study_id"].n_unique() == 4
    assert raw.notes == {"studies": 4, "studies_without_image": 0, "studies_with_uneven_views": 0}


def test_sections_without_indication_and_comparison(fake):
    _, texts = read(fake)
    assert texts.select("findings", "impression").rows()[0] == (
        "The lungs are clear in study 1.",
        "No acute disease.",
    )
    assert texts.rows()[3][1:] == (None,) * 5, "words and numbers that stand for a missing text are no text"


def test_studies_without_images_and_with_too_few_views_are_counted(fake):
    fake.add(5, views=())
    fake.add(6, ImageViewPosition=["PA"])
    fake.add(7, ImageViewPosition=None)
    raw, _ = read(fake)
    assert raw.notes == {"studies": 7, "studies_without_image": 1, "studies_with_uneven_views": 1}
    assert raw.rows.filter(patient_id="GRDN0006")["view"].to_list() == [None, None]
    assert len(raw.rows.filter(patient_id="GRDN0007")) == 2


def test_a_study_without_patient_is_left_to_preparation_to_reject(fake):
    fake.studies["train"]["GRDN0001_GRDNACC0001_1"]["PatientID"] = float("nan")
    assert read(fake)[0].rows["patient_id"].null_count() == 2


def test_one_file_alone_can_be_read(fake):
    fake.write()
    settings = fake.settings(split="patient")
    settings = settings.replace(index=settings.index.replace(images=FILE.format("valid")))
    assert rexgradient.read_images(settings).rows["split"].to_list() == ["validate"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ImagePath", "../deid_png/x.png", "ImagePath is '../deid_png/x.png'; expected a list of texts"),
        ("ImagePath", [None], "ImagePath holds a null"),
        ("ImageViewPosition", [1], "ImageViewPosition is .1.; expected a list of texts"),
        ("PatientID", ["a"], "PatientID is .'a'.; expected a text"),
        ("Findings", {}, "Findings is {}; expected a text"),
    ],
)
def test_studies_that_cannot_be_used_are_named(fake, field, value, message):
    fake.studies["train"]["GRDN0001_GRDNACC0001_1"][field] = value
    with pytest.raises(InputError, match=f"train_metadata.*study 'GRDN0001_GRDNACC0001_1': {message}"):
        read(fake)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": ', "not a whole JSON file"),
        ("[" * 100_000, "not a whole JSON file"),
        ('{"a": {}, "a": {}}', "'a' is there twice"),
        ("[]", "maps studies"),
        ('{"a": 1}', "maps studies"),
        (r'{"a": {"Findings": "\ud83d."}}', "surrogates not allowed"),
    ],
)
def test_files_that_cannot_be_read(fake, content, message):
    fake.write()
    put(fake.root / FILE.format("valid"), content)
    with pytest.raises(InputError, match=f"valid_metadata_view_position.json: .*{message}"):
        rexgradient.read_images(fake.settings())


def test_a_folder_without_the_files_says_which_are_expected(fake):
    put(fake.root / "metadata/train_metadata.csv", "id\n")
    with pytest.raises(
        InputError, match=r"metadata: expected a folder with train_metadata_view_position\.json, valid_"
    ):
        rexgradient.read_images(fake.settings())


def test_non_latin_texts_survive(fake):
    fake.studies["train"]["GRDN0001_GRDNACC0001_1"]["Findings"] = "Opacité à gauche."
    fake.write()
    path = fake.root / FILE.format("train")
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), encoding="utf-8")
    settings = fake.settings()
    images = rexgradient.read_images(settings).rows
    assert rexgradient.read_reports(settings, images).rows["findings"][0] == "Opacité à gauche."


def test_a_path_that_climbs_out_is_rejected_in_preparation(fake, tmp_path):
    put(tmp_path.parent / "secret.png", b"x")
    fake.studies["train"]["GRDN0001_GRDNACC0001_1"]["ImagePath"] = [
        "../deid_png/../../secret.png",
        "/etc/hostname",
    ]
    fake.write()
    settings = fake.settings()
    selection = Selection(rexgradient.read_images(settings).rows)
    keep_wanted_images(selection, settings.replace(views=None))
    assert selection.counts() == {"outside_root": 2}


def test_names_that_no_file_can_have_are_no_files(fake):
    fake.studies["train"]["GRDN0001_GRDNACC0001_1"]["ImagePath"] = [
        "../deid_png/" + "x" * 5000,
        "../a\0b.png",
    ]
    fake.write()
    settings = fake.settings()
    selection = Selection(rexgradient.read_images(settings).rows)
    keep_wanted_images(selection, settings.replace(views=None))
    assert len(selection.rejected) == 2
