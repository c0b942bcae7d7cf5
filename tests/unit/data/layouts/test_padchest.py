import numpy as np
import pytest
from PIL import Image

from medunifier.data.layouts import padchest, padchest_gr
from medunifier.runtime.errors import InputError
from tests.support.fake_files import put, read_both
from tests.support.fake_padchest import TABLE, FakePadchest, FakePadchestGr, sentence


def read(fake, layout):
    fake.write()
    return read_both(layout, fake.settings())


@pytest.fixture
def fake(tmp_path):
    fake = FakePadchest(tmp_path)
    fake.add("a1", labels="['cardiomegaly', ' pleural effusion']", report="cardiomegali . derram pleural")
    fake.add(
        "a1",
        projection="L",
        labels="['pleural effusion', 'cardiomegaly']",
        report="cardiomegali . derram pleural",
    )
    fake.add("b2", folder=54, projection="AP_horizontal")
    fake.add("c3", labels="['exclude']")
    fake.add("d4", labels="", report="")
    fake.add("e5", labels="['laminar atelectasis'", patient=7)
    return fake


def test_the_fake_copy_has_16_bits_of_which_12_are_used(fake):
    with Image.open(fake.root / f"0/{fake.rows[0]['ImageID']}") as image:
        assert image.mode.startswith("I;16") and 1000 < np.asarray(image).max() <= 4095


def test_ids_paths_and_views_of_padchest(fake):
    rows = read(fake, padchest)[0].rows
    assert rows["patient_id"].to_list() == ["a1", "a1", "b2", "c3", "d4", "7"]
    assert rows["view"].to_list() == ["PA", "L", "AP Supine", "PA", "PA", "PA"]
    assert rows["image_path"][2].startswith("54/")
    assert all((fake.root / path).is_file() for path in rows["image_path"])
    assert rows["split"].null_count() == 6


@pytest.mark.parametrize("images", ["", "images"])
@pytest.mark.parametrize("flat", [True, False])
def test_images_lie_in_numbered_folders_or_in_one(tmp_path, images, flat):
    fake = FakePadchest(tmp_path, images)
    path = fake.add("a1", folder=3)
    if flat:
        path.rename(tmp_path / images / path.name)
    rows = read(fake, padchest)[0].rows
    assert (tmp_path / rows["image_path"][0]).is_file()


def test_listed_labels_are_1_others_0_and_unknown_ones_null(fake):
    raw, _ = read(fake, padchest)
    assert [name for name in raw.rows.columns if name.startswith("label_")] == [
        "label_cardiomegaly", "label_exclude", "label_normal", "label_pleural_effusion",
    ]  # fmt: skip
    assert raw.rows.select("label_cardiomegaly", "label_normal", "label_pleural_effusion").rows() == [
        (1, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 0), (None,) * 3, (None,) * 3,
    ]  # fmt: skip
    assert raw.notes == {"images_without_labels": 2, "labels_unreadable": 1}


def test_images_that_the_data_set_excludes_are_rejected(fake):
    rows = read(fake, padchest)[0].rows
    assert rows["reason"].to_list() == [None] * 3 + ["excluded"] + [None] * 2


def test_reports_have_no_sections(fake):
    texts = read(fake, padchest)[1].rows
    assert len(texts) == 5
    assert texts.row(0)[1:4] == (None, None, "cardiomegali . derram pleural")
    assert texts.filter(study_id=fake.rows[4]["StudyID"])["body"].to_list() == [None]


def test_images_of_one_study_with_different_reports_reject_it(fake):
    fake.rows[1]["Report"] = "otro"
    assert read(fake, padchest)[1].rows.row(0)[4:] == ("contradictory_report", "2 different reports")


def test_labels_are_never_run_as_code(fake, tmp_path):
    fake.rows[0]["Labels"] = f"[__import__('pathlib').Path('{tmp_path}/ran').touch()]"
    assert read(fake, padchest)[0].notes["labels_unreadable"] == 2
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text", ["[" + "-" * 100_000 + "1]", "[1" + "+1" * 50_000 + "]", "[['a']]", "['a', 1]"]
)
def test_labels_that_are_no_list_of_texts_are_counted(fake, text):
    fake.rows[0]["Labels"] = text
    assert read(fake, padchest)[0].notes["labels_unreadable"] == 2


@pytest.mark.parametrize("column", ["ImageID", "StudyID"])
def test_a_blank_id_is_named(fake, column):
    fake.rows[2][column] = ""
    with pytest.raises(InputError, match=f"{TABLE}: column '{column}' is blank in 1 rows"):
        read(fake, padchest)


@pytest.fixture
def grounded(tmp_path):
    fake = FakePadchestGr(tmp_path)
    findings = [
        sentence("Minimal biapical pleural thickening.", "apical pleural thickening"),
        sentence("No pleural effusion.", abnormal=False),
        sentence("Cardiomegaly.", "cardiomegaly"),
    ]
    fake.add(1, findings=findings, patient=90)
    fake.add(2, "validation")
    fake.add(3, "test", findings=[sentence("", "nodule"), sentence("Nodule.", "nodule")])
    return fake


def test_sentences_labels_and_split_of_padchest_gr(grounded):
    raw, texts = read(grounded, padchest_gr)
    assert raw.rows.select("patient_id", "split").rows() == [
        ("90", "train"),
        ("2", "validate"),
        ("3", "test"),
    ]
    labels = ("label_apical_pleural_thickening", "label_cardiomegaly", "label_nodule")
    assert raw.rows.select(labels).rows() == [(1, 1, 0), (0, 0, 0), (0, 0, 1)]
    assert all((grounded.root / path).is_file() for path in raw.rows["image_path"])
    assert texts.rows["findings"].to_list() == [
        "Minimal biapical pleural thickening. No pleural effusion. Cardiomegaly.", "No pleural effusion.", "Nodule.",
    ]  # fmt: skip
    assert texts.notes == {"sentences_without_english": 1}


def test_a_study_that_the_table_lacks_has_no_patient(grounded):
    grounded.rows = [row for row in grounded.rows if not row["StudyID"].endswith("2")]
    raw, _ = read(grounded, padchest_gr)
    assert raw.rows.select("patient_id", "split").row(1) == (None, None)
    assert "master_table.csv: 1 of 3 values of 'study_id' have no row" in raw.warnings[0]


def test_a_table_of_other_studies_is_refused(grounded):
    for row in grounded.rows:
        row["StudyID"] += "9"
    with pytest.raises(InputError, match=r"master_table\.csv: none of its 3 values of 'study_id'"):
        read(grounded, padchest_gr)


@pytest.mark.parametrize("folder", ["Padchest_GR_files", "PadChest_GR", "."])
def test_images_of_padchest_gr_are_found_wherever_they_are_unpacked(tmp_path, folder):
    fake = FakePadchestGr(tmp_path, folder)
    fake.add(1)
    assert (tmp_path / read(fake, padchest_gr)[0].rows["image_path"][0]).is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a whole JSON file"),
        ("{}", "expected a JSON list of studies"),
        ('[{"StudyID": "1"}]', "study 1: expected an object with StudyID, ImageID"),
        (
            '[{"StudyID": "1", "ImageID": "a", "findings": ["x"]}]',
            "study 1: findings are not a list of objects",
        ),
        ('[{"StudyID": "1", "ImageID": "a", "findings": 5}]', "study 1: findings are not a list of objects"),
        ('[{"StudyID": "1", "ImageID": "a", "findings": [{"sentence_en": 5}]}]', "with a text `sentence_en`"),
        ('[{"StudyID": "1", "ImageID": "a", "findings": [{"labels": "mass"}]}]', "a list of texts `labels`"),
        (r'[{"StudyID": "1", "ImageID": "a\ud800"}]', "surrogates not allowed"),
    ],
)
def test_a_file_of_grounded_reports_that_cannot_be_used(grounded, content, message):
    grounded.write()
    put(grounded.root / "grounded_reports_20240819.json", content)
    with pytest.raises(InputError, match=f"grounded_reports_20240819.json.*{message}"):
        padchest_gr.read_images(grounded.settings())


def test_a_study_with_two_splits_is_refused(grounded):
    grounded.rows[1]["split"] = "test"
    with pytest.raises(
        InputError, match=r"master_table\.csv: 1 values of 'StudyID' .* contradict each other"
    ):
        read(grounded, padchest_gr)


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "a\0b.png", "../secret.png"])
def test_an_image_name_that_is_no_file_s_name_is_an_image_that_is_not_there(tmp_path, name):
    fake = FakePadchest(tmp_path)
    fake.add("a1")
    fake.add("b2")
    fake.rows[1]["ImageID"] = name
    rows = read(fake, padchest)[0].rows
    assert rows["image_path"][0].startswith("0/") and len(rows) == 2
