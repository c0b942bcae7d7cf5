import pytest

from medunifier.data.dataset_files import locate_images
from medunifier.data.layouts import RAW_IMAGES, chexpert
from medunifier.runtime.errors import InputError
from tests.support.fake_chexpert import FakeChexpert


@pytest.fixture
def fake(tmp_path):
    fake = FakeChexpert(tmp_path)
    fake.add(1, edema="1.0", pneumonia="-1.0", no_finding="0.0")
    fake.add(1, study=2, side="Lateral", view="")
    fake.add(2, view="LL")  # marked Frontal, as 17 rows of the original are
    fake.add(3, view="AP")
    fake.add(64541, split="valid")
    return fake


def read(fake):
    fake.write()
    raw = chexpert.read_images(fake.settings())
    RAW_IMAGES.check(raw.rows, "test")
    return raw


@pytest.mark.parametrize(
    "prefix", ["CheXpert-v1.0-small/", "CheXpert-v1.0/", "CheXpert-v1.0-small-batch1/", ""]
)
def test_paths_are_resolved_against_the_root_whatever_folder_they_start_with(fake, prefix):
    for rows in fake.rows.values():
        for row in rows:
            row["Path"] = row["Path"].replace("CheXpert-v1.0-small/", prefix)
    rows = read(fake).rows
    assert rows["image_path"][0] == "train/patient00001/study1/view1_frontal.jpg"
    assert all((fake.root / path).is_file() for path in rows["image_path"])
    assert rows["patient_id"].to_list() == [f"patient{n:05}" for n in (1, 1, 2, 3, 64541)]
    assert rows["study_id"][1] == "patient00001/study2"


def test_views_tell_lateral_images_marked_frontal(fake):
    raw = read(fake)
    assert raw.rows["view"].to_list() == ["PA", "LATERAL", "LL", "AP", "PA"]
    assert raw.notes == {"images_lateral": 1, "images_frontal": 4}


def test_sex_and_age_are_read_where_they_are(fake):
    fake.rows["train"][1] |= {"Sex": "Unknown", "Age": 0}
    rows = read(fake).rows
    assert rows.select("sex", "age").rows() == [("F", 60), (None, 0), ("F", 60), ("F", 60), ("F", 60)]
    for listed in fake.rows.values():
        for row in listed:
            del row["Sex"], row["Age"]
    assert read(fake).rows.select("sex", "age").null_count().row(0) == (5, 5)


@pytest.mark.parametrize("view", ["LL", "RL"])
def test_a_lateral_view_in_a_row_marked_frontal_stays_what_it_is(fake, view):
    fake.add(5, view=view)
    rows = read(fake).rows.filter(patient_id="patient00005")
    assert rows["view"].to_list() == [view] and rows["image_path"][0].endswith("view1_frontal.jpg")


def test_valid_csv_is_the_test_split_and_train_csv_has_none(fake):
    assert read(fake).rows["split"].to_list() == [None] * 4 + ["test"]


def test_labels_are_1_0_minus_1_or_blank(fake):
    rows = read(fake).rows
    assert rows.select("label_edema", "label_pneumonia", "label_no_finding", "label_fracture").row(0) == (
        1, -1, 0, None,
    )  # fmt: skip
    assert sum(name.startswith("label_") for name in rows.columns) == 14


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("Edema", "2.0", "Edema is '2.0', first in line 2; 1 rows are not as expected: 1, 0, -1 or blank"),
        (
            "Path",
            "somewhere/1.jpg",
            "Path is 'somewhere/1.jpg', first in line 2; 1 .* expected: CheXpert-v1.0",
        ),
        ("Frontal/Lateral", "Oblique", "Frontal/Lateral is 'Oblique', first in line 2"),
    ],
)
def test_rows_that_cannot_be_used(fake, column, value, message):
    fake.rows["train"][0][column] = value
    with pytest.raises(InputError, match=f"train.csv: {message}"):
        read(fake)


ROLES = ("images", "labels", "split", "checksums", "lists")


def below(settings, root, folder):
    """The settings with another root, and the lists in a folder below it."""
    index = settings.index.replace(**{role: f"{folder}/{getattr(settings.index, role)}" for role in ROLES})
    return settings.replace(root=str(root), index=index)


def test_the_root_may_be_one_level_up(tmp_path):
    fake = FakeChexpert(tmp_path / "CheXpert-v1.0-small")
    fake.add(1)
    fake.add(2, split="valid")
    fake.write()
    raw = chexpert.read_images(below(fake.settings(), tmp_path, "CheXpert-v1.0-small"))
    assert raw.rows["image_id"][0] == "train/patient00001/study1/view1_frontal.jpg"
    assert all((tmp_path / path).is_file() for path in raw.rows["image_path"]) and raw.warnings == []
    with pytest.raises(InputError, match=r"it lies in .*CheXpert-v1\.0-small: is that the `root`\?"):
        chexpert.read_images(fake.settings().replace(root=str(tmp_path)))


def test_the_folders_of_the_original_s_archives_may_stay_as_they_are(tmp_path):
    fake = FakeChexpert(tmp_path / "whole", prefix="CheXpert-v1.0/")
    for patient in (1, 2, 30000):
        fake.add(patient)
    fake.add(64541, split="valid")
    fake.write()
    first, second, third = (
        tmp_path / f"CheXpert-v1.0 batch {name}"
        for name in ("1 (validate & csv)", "2 (train 1)", "3 (train 2)")
    )
    fake.root.rename(first)
    for patient, batch in (("patient00001", second), ("patient00002", second), ("patient30000", third)):
        batch.mkdir(exist_ok=True)
        (first / "train" / patient).rename(batch / patient)
    (first / "train").rmdir()
    raw = chexpert.read_images(below(fake.settings(), tmp_path, first.name))
    assert raw.rows["image_path"].to_list()[::3] == [
        "CheXpert-v1.0 batch 2 (train 1)/patient00001/study1/view1_frontal.jpg",
        "CheXpert-v1.0 batch 1 (validate & csv)/valid/patient64541/study1/view1_frontal.jpg",
    ]
    assert all((tmp_path / path).is_file() for path in raw.rows["image_path"]) and raw.warnings == []
    assert raw.rows["image_id"][0] == "train/patient00001/study1/view1_frontal.jpg", "as in the whole folder"


def test_a_root_without_images_is_told_with_what_is_accepted(fake):
    fake.write()
    (fake.root / "train").rename(fake.root / "elsewhere")
    told = chexpert.read_images(fake.settings()).warnings
    assert len(told) == 1 and "no folder train/; accepted: train/ beside train.csv, or the folders" in told[0]


def test_a_path_that_leaves_the_root_is_no_image(fake):
    fake.rows["train"][0]["Path"] = "train/patient00001/study1/../../../../outside/x.jpg"
    located = locate_images(read(fake).rows, fake.root)
    assert located.select("reason", "bytes").row(0) == ("outside_root", None)
    fake.rows["train"][0]["Path"] = "/etc/patient00001/study1/x.jpg"
    with pytest.raises(InputError, match=r"Path is '/etc/patient00001/study1/x\.jpg', first in line 2"):
        read(fake)


def test_a_row_with_a_field_too_many_is_refused(fake):
    fake.write()
    path = fake.root / "train.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2] + ",1.0", *lines[3:]]))
    with pytest.raises(InputError, match=r"train\.csv, line 3: 20 fields, but the header has 19"):
        chexpert.read_images(fake.settings())
