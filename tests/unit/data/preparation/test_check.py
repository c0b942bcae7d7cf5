"""`prepare --check` finds what `prepare` would stop at, and says first what most images are lost by."""

import json
from pathlib import Path

import pytest

from medunifier.data.preparation.check import check_dataset
from medunifier.runtime.errors import InputError
from tests.stages.test_prepare import run_settings
from tests.support.fake_chexpert import FakeChexpert
from tests.support.fake_covidx import FakeCovidx
from tests.support.fake_files import put
from tests.support.fake_iu_xray import FakeIuXray
from tests.support.fake_mimic import FakeMimic


@pytest.fixture
def iu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FakeIuXray(tmp_path / "iu")
    for number in range(1, 21):
        fake.add(number, ("IM-0001-1001",))
    fake.write_xml(packed=True)
    return fake


def check(settings, name="fake"):
    return "\n".join(check_dataset(name, settings, 0))


def both(settings, message):
    """The check and the stage stop with the same message."""
    with pytest.raises(InputError, match=message):
        check(settings)
    with pytest.raises(InputError, match=message):
        run_settings(settings)


def test_absent_images_are_told_with_what_lies_there_and_what_to_unpack(iu):
    for file in (iu.root / "NLMCXR_png").iterdir():
        file.unlink()
    put(iu.root / "NLMCXR_png.tgz", b"")
    put(iu.root / "thumbnails/x.jpg", b"")
    message = (
        r"all 20 images rejected: missing_image 20; 0 \.png files below .*iu \(and 1 \.jpg\), the first one missing is "
        r"NLMCXR_png/CXR.*\.png; unpack NLMCXR_png\.tgz there"
    )
    both(iu.settings("NLMCXR_reports.tgz"), message)
    with pytest.raises(InputError, match=r"https://openi\.nlm\.nih\.gov"):
        check(iu.settings("NLMCXR_reports.tgz"))


def test_a_root_that_is_a_loop_of_links_is_no_folder(iu, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"datasets\.fake\.root: no such folder"):
        check(iu.settings("NLMCXR_reports.tgz").replace(root=str(tmp_path / "loop")))


def test_images_in_another_folder_are_not_said_to_be_packed(iu):
    for file in (iu.root / "NLMCXR_png").iterdir():
        file.rename(file.with_name("x" + file.name))
    both(iu.settings("NLMCXR_reports.tgz"), r"; 20 \.png files below .*; are they in other folders, or under")


def test_nothing_stands_in_the_way_only_if_most_images_are_there(iu):
    settings = iu.settings("NLMCXR_reports.tgz")
    files = sorted((iu.root / "NLMCXR_png").iterdir())
    for file in files[:9]:
        file.unlink()
    assert "no problem found" in check(settings)
    for file in files[9:12]:
        file.unlink()
    text = check(settings)
    assert "no problem found" not in text
    assert (
        "problem  most images cannot be used: 12 of 20 images rejected: missing_image 12; 8 .png files"
        in text
    )


def test_labels_that_could_not_be_classified_stand_in_the_way(iu):
    """Told here, not after hours of pre-training: no image has a pneumothorax, and `label_` is no part of a name."""
    settings = iu.settings("NLMCXR_reports.tgz")
    text = "\n".join(
        check_dataset("fake", settings, 0, labels=("no_finding", "pneumothorax", "label_no_finding"))
    )
    assert "label pneumothorax has no positive image in train, validate, test" in text
    assert "names a label label_no_finding; the data set has no_finding, atelectasis," in text
    assert "label no_finding has" not in text and "no problem found" not in text


def test_images_that_cannot_be_decoded_stand_in_the_way(iu):
    for file in (iu.root / "NLMCXR_png").iterdir():
        file.write_bytes(b"not an image")
    text = check(iu.settings("NLMCXR_reports.tgz"))
    assert "decoded  0 of 12" in text and "no problem found" not in text


def test_a_patient_in_two_splits_is_found_by_the_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FakeMimic(tmp_path)
    for number, split in enumerate(("train", "validate", "test")):
        fake.add(f"d{number}", f"1000000{number}", f"5000000{number}", split=split)
    fake.add("again", "10000000", "50000009", split="test")
    fake.write()
    both(fake.settings(), "patients are in two splits: 10000000")


def test_warnings_are_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FakeMimic(tmp_path)
    for number, split in enumerate(("train", "validate", "test")):
        fake.add(f"d{number}", f"1000000{number}", f"5000000{number}", split=split)
    fake.chexpert.pop()
    fake.write()
    text = check(fake.settings())
    assert "warning  " in text and "1 of 3 values of 'study_id' have no row: 50000002" in text


def covidx(tmp_path, *lines):
    fake = FakeCovidx(tmp_path / "covidx")
    for number in range(20):
        fake.add(f"{number} {number}.png normal rsna", f"{number}.png")
    fake.add("90 90.png normal rsna", "90.png", "test")
    fake.lines["train"] += lines
    fake.write()
    return fake.settings()


def test_contradictory_rows_are_rejected_and_the_contradiction_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = covidx(tmp_path, "3 3.png COVID-19 rsna", "4 4.png normal rsna", "400 5.png normal rsna")
    tables, summary = run_settings(settings)
    assert summary["rejected"] == {"contradictory": 2, "duplicate_id": 2}
    rejected = {row["image_id"]: row for row in tables["rejected"].iter_rows(named=True)}
    assert rejected["3.png"]["detail"] == "label_normal is 0, 1; label_covid_19 is 0, 1"
    assert rejected["5.png"]["detail"] == "listed before; here with patient 400, study 5.png"
    assert "under several patients, who may be one person: patient_id is 400, 5;" in check(settings)


def test_contradictory_labels_of_chexpert_are_rejected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FakeChexpert(tmp_path / "CheXpert-v1.0-small")
    for number in range(20):
        fake.add(number, edema="1.0")
    fake.rows["train"].append({**fake.rows["train"][3], "Edema": "0.0"})
    fake.rows["train"].append(fake.rows["train"][4])
    fake.add(60, split="valid")
    fake.write()
    tables, summary = run_settings(fake.settings())
    assert summary["rejected"] == {"contradictory": 2, "duplicate_id": 1}
    assert tables["rejected"]["detail"][0] == "label_edema is 0, 1"


def test_patients_that_may_be_one_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = covidx(tmp_path, "p7 x.png normal rsna", "3.0 y.png normal rsna")
    for name in ("x.png", "y.png"):
        put(Path(settings.root) / "train" / name, (Path(settings.root) / "train/0.png").read_bytes())
    text = check(settings)
    assert (
        "2 patient ids differ in case, a leading `p` or leading zeros only" in text and ": 7 and p7" in text
    )


def test_ids_in_a_list_that_are_of_no_image_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = covidx(tmp_path)
    lines = [f"{number}.png,{('train', 'validate', 'test')[number % 3]}" for number in range(20)]
    put(
        Path(settings.root) / "mine.csv",
        "\n".join(["image_id,split", *lines, "elsewhere.png,test", "90.png,test"]),
    )
    settings = settings.replace(split="list", index=settings.index.replace(lists="mine.csv"))
    run_settings(settings)
    notes = json.loads(Path("data/prepared/fake/summary.json").read_text())["notes"]
    assert notes["listed_ids_without_image"] == 1
    put(Path(settings.root) / "mine.csv", "image_id,split\nelsewhere.png,test\n")
    both(settings, r"mine\.csv: none of its 1 values of 'image_id' \(elsewhere\.png\) is among the 21")


def test_no_report_outside_its_folder_is_read_by_way_of_a_study_s_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FakeMimic(tmp_path)
    for number, split in enumerate(("train", "validate", "test")):
        fake.add(f"d{number}", f"1000000{number}", f"5000000{number}", split=split)
    for number, study in enumerate(("x/../../../../../outside/50000009", "../../../../outside/50000009")):
        fake.add(f"e{number}", "10000000", study)
    fake.write()
    tables, summary = run_settings(fake.settings())
    assert summary["rejected"] == {"outside_root": 2}
    assert sum(len(tables[split]) for split in ("train", "validate", "test")) == 3
