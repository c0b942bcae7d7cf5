"""NIH ChestX-ray14: both versions of the index, the official lists, boxes, and the real part of the set."""

import csv
from collections import Counter

import polars as pl
import pytest

from medunifier.data.layouts import RAW_IMAGES, nih_chestxray14
from medunifier.data.layouts.nih_chestxray14 import FINDINGS
from medunifier.data.preparation.check import check_dataset
from medunifier.runtime.errors import InputError
from tests.stages.test_prepare import SPLITS, run_settings
from tests.support.fake_files import put, settings
from tests.support.fake_nih import INDEX, FakeNih
from tests.support.paths import REPO, SHARED
from tests.unit.data.layouts.test_layouts_together import decode

REAL = SHARED / "data" / "nih-chestxray14"
SENTENCES = str(REPO / "workflow/label_sentences.yaml")


@pytest.fixture
def fake(tmp_path):
    return FakeNih(tmp_path / "nih")


def ones(row):
    return {name for name, value in row.items() if name.startswith("label_") and value == 1}


@pytest.mark.parametrize(
    ("sex", "index", "age"),
    [("Patient Gender", "Data_Entry_2017.csv", "058Y"), ("Patient Sex", INDEX, "58")],
)
def test_a_row_of_either_version(tmp_path, sex, index, age):
    fake = FakeNih(tmp_path / "nih", sex, index)
    fake.add(13, 26, "Cardiomegaly|Effusion|Pleural_Thickening", age=age, sex="F", view="AP")
    fake.add(14, 0, "No Finding", age="414", test=True, folder="images_012/images")
    fake.write()
    raw = nih_chestxray14.read_images(fake.settings())
    RAW_IMAGES.check(raw.rows, "test")
    first, second = raw.rows.iter_rows(named=True)
    assert ones(first) == {"label_cardiomegaly", "label_pleural_effusion", "label_pleural_thickening"}
    assert ones(second) == {"label_no_finding"}
    assert sum(name.startswith("label_") for name in first) == 15 and None not in {
        first[n] for n in FINDINGS.values()
    }
    assert [first[name] for name in ("patient_id", "view", "sex", "age", "split")] == [
        "13",
        "AP",
        "F",
        58,
        None,
    ]
    assert first["image_path"] == "images_001/images/00000013_026.png"
    assert second["image_path"] == "images_012/images/00000014_000.png"
    assert (second["age"], second["split"]) == (None, "test")
    assert raw.notes["ages_unknown"] == 1 and raw.notes["test_list_without_row"] == 0


def test_the_official_lists_split_it_and_patients_stay_together(fake, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for patient in range(1, 31):
        for number in range(1 + patient % 3):
            fake.add(patient, number, "Pneumonia" if patient % 2 else "No Finding", test=patient > 20)
    fake.tested.append("00030805_000.png")
    gone = fake.add(31)
    gone.unlink()
    put(fake.root / "images_002/images/00009999_000.png", gone.name)
    fake.write()
    tables, summary = run_settings(fake.settings(), name="nih")
    assert set(tables["test"]["patient_id"].cast(int)) == set(range(21, 31))
    assert tables["train"]["patient_id"].n_unique() == 14 and tables["validate"]["patient_id"].n_unique() == 6
    assert summary["rejected"] == {"missing_image": 1}
    assert summary["notes"]["test_list_without_row"] == 1 and summary["notes"]["files_without_row"] == 1
    assert summary["texts"] == {"from": "reports"} and tables["train"]["report"].null_count() == len(
        tables["train"]
    )
    decode("nih", fake.settings())


@pytest.mark.parametrize("published", ["NIH", "BenchX"])
def test_published_lists_split_it_as_they_say(fake, monkeypatch, tmp_path, published):
    """NIH leaves the validation to us, by patient; BenchX lists it, without suffixes. Images in no list are rejected."""
    monkeypatch.chdir(tmp_path)
    for patient in range(1, 31):
        for number in range(1 + patient % 2):
            fake.add(patient, number, test=patient > 20)
    fake.write()
    train = [name for name in fake.trained if not name.startswith("00000001")]  # patient 1 is in no list
    files = {"train_val_list": train, "test_list": fake.tested}
    if published == "BenchX":
        bare = [name.removesuffix(".png") for name in (*train, *fake.tested)]
        files = {
            "train": [name for name in bare if int(name[:8]) <= 15],
            "val": [name for name in bare if 15 < int(name[:8]) <= 20],
            "test": [*(name for name in bare if int(name[:8]) > 20), "00030805_000"],
        }
    for name, ids in files.items():
        put(fake.root / f"lists/{name}.txt", "\n".join(ids))
    own = fake.settings(split="list")
    tables, summary = run_settings(own.replace(index=own.index.replace(lists="lists")), name="nih")
    assert set(tables["test"]["patient_id"].cast(int)) == set(range(21, 31))
    validated = set(tables["validate"]["patient_id"].cast(int))
    assert validated == {16, 17, 18, 19, 20} if published == "BenchX" else len(validated) == 6
    assert set(tables["train"]["patient_id"].cast(int)) == set(range(2, 21)) - validated
    assert summary["rejected"] == {"missing_split": 2}
    assert summary["notes"]["listed_ids_without_image"] == (1 if published == "BenchX" else 0)


def test_one_folder_of_images_and_no_official_list(fake, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for patient in range(1, 11):
        fake.add(patient, folder="images")
    fake.write()
    without = settings("nih_chestxray14", fake.root, INDEX, split="patient")
    _, summary = run_settings(without, name="nih")
    assert summary["kept"] == {"train": 7, "validate": 2, "test": 1} or sum(summary["kept"].values()) == 10
    with pytest.raises(InputError, match="no official split for 10 images"):
        run_settings(without.replace(split="official"), name="nih")


def test_boxes_are_checked_and_counted(fake):
    fake.add(1, 0, "Infiltration|Mass")
    fake.add(2, 0, "Nodule", test=True)
    fake.write()
    listed = fake.settings()
    listed = listed.replace(index=listed.index.replace(labels="BBox_List_2017.csv"))
    # The header has three fields more than the rows.
    lines = [
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        "00000001_000.png,Infiltrate,225.08,547.01,86.77,79.18",
        "00000002_000.png,Mass,1,2,3,4",
        "00000009_000.png,Nodule,1,2,3,4",
    ]
    put(fake.root / "BBox_List_2017.csv", "\n".join(lines))
    notes = nih_chestxray14.read_images(listed).notes
    assert (notes["boxes"], notes["boxes_without_row"], notes["boxes_of_findings_not_listed"]) == (3, 1, 1)
    for line in ("00000001_000.png,Infiltrate,1,2,3", "a.png,Cyst,1,2,3,4", "a.png,Mass,1,x,3,4", "a.png"):
        put(fake.root / "BBox_List_2017.csv", f"{lines[0]}\n{line}\n")
        with pytest.raises(InputError, match=r"BBox_List_2017\.csv, line 2: .*four numbers x, y, w, h"):
            nih_chestxray14.read_images(listed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"findings": "Cyst|Mass"},
            r"Finding Labels is 'Cyst\|Mass', first in line \d+; 1 rows .*: No Finding alone, or Atelectasis",
        ),
        (
            {"findings": "No Finding|Mass"},
            r"Finding Labels is 'No Finding\|Mass', first in line \d+; 1 rows .*: No Finding alone",
        ),
        (
            {"patient_id": "8"},
            r"1 rows contradict their file names, first 00000007_000.png with Patient ID 8",
        ),
        ({"view": "PA,AP"}, r"line 2: 13 fields, but the header has 12"),
    ],
)
def test_an_index_that_cannot_be_right_is_refused(fake, changes, message):
    fake.add(7, **changes)
    fake.tested.append("00000007_000.png")
    fake.write()
    with pytest.raises(InputError, match=message):
        nih_chestxray14.read_images(fake.settings())


def test_a_test_list_of_another_data_set_is_refused(fake):
    fake.add(1)
    fake.tested.append("patient00001/study1/view1_frontal.jpg")
    fake.write()
    with pytest.raises(InputError, match=r"test_list\.txt: none of its 1 ids is in Data_Entry"):
        nih_chestxray14.read_images(fake.settings())


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data set is not at {REAL}")
def test_the_real_part_of_the_set(tmp_path, monkeypatch):
    """Against the csv module: labels, views, ages, texts; every image is there and in one split with its patient."""
    monkeypatch.chdir(tmp_path)
    own = settings("nih_chestxray14", REAL, INDEX, split="patient", sections="either", report_from="labels")
    tables, summary = run_settings(own, name="nih", label_sentences=SENTENCES)
    with (REAL / INDEX).open(encoding="utf-8", newline="") as file:
        rows = {row["Image Index"]: row for row in csv.DictReader(file)}
    kept = pl.concat([tables[split] for split in SPLITS])
    assert set(kept["image_id"]) == rows.keys() and summary["rejected"] == {}
    counts = Counter(name for row in rows.values() for name in row["Finding Labels"].split("|"))
    names = {"No Finding": "label_no_finding"} | FINDINGS
    assert {name: int(kept[names[name]].sum()) for name in counts} == counts
    assert summary["texts"]["from"] == "labels" and summary["notes"]["texts_from_labels"] == len(rows)
    for image, view, report in kept.select("image_id", "view", "report").iter_rows():
        row = rows[image]
        decade = int(row["Patient Age"]) // 10 * 10
        sex = {"F": "female", "M": "male"}[row["Patient Gender"]]
        assert view == row["View Position"]
        assert report.startswith(
            f"{view} chest radiograph of a {sex} patient aged {decade} to {decade + 9}. "
        )
        assert ("There is pneumonia." in report) == ("Pneumonia" in row["Finding Labels"])
        assert report.endswith("No abnormality is seen.") == (row["Finding Labels"] == "No Finding")
    text = "\n".join(check_dataset("nih", own, 0, SENTENCES))
    assert f"{len(rows)} images of" in text and "decoded  12 of 12" in text
