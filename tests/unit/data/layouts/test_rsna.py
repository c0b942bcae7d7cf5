import pytest

from medunifier.data.layouts import RAW_IMAGES, rsna
from medunifier.runtime.errors import InputError
from tests.support.fake_rsna import BOX, FakeRsna


@pytest.fixture
def fake(tmp_path):
    fake = FakeRsna(tmp_path)
    fake.add("aaa", boxes=4)
    fake.add("bbb")
    fake.add("ccc", boxes=1, view="AP")
    fake.add("ddd", view=None)
    return fake


def read(fake):
    fake.write()
    raw = rsna.read_images(fake.settings())
    RAW_IMAGES.check(raw.rows, "test")
    return raw


def test_several_boxes_of_a_patient_are_one_image(fake):
    raw = read(fake)
    assert raw.rows["patient_id"].to_list() == ["aaa", "bbb", "ccc", "ddd"]
    assert raw.rows["label_pneumonia"].to_list() == [1, 0, 1, 0]
    assert raw.notes == {"label_rows": 7, "boxes": 5, "images_with_pneumonia": 2, "files_without_row": 0}
    assert all((fake.root / path).is_file() for path in raw.rows["image_path"])


def test_views_are_those_of_the_dicom_headers(fake):
    (fake.root / "stage_2_train_images/bbb.dcm").write_bytes(b"not DICOM")
    rows = read(fake).rows
    assert rows["view"].to_list() == ["PA", None, "AP", None]
    assert rows["reason"].null_count() == 4, "what is no DICOM file is found out when it is decoded"


def test_a_missing_file_is_missing_and_not_without_a_view(fake):
    (fake.root / "stage_2_train_images/ccc.dcm").unlink()
    rows = read(fake).rows
    assert rows["reason"].to_list() == [None, None, "missing_image", None]
    assert rows["detail"][2] == "stage_2_train_images/ccc.dcm"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("eee,,,,,2", "Target is '2', first in line 9; 1 rows are not as expected: 0 or 1"),
        ("eee,,,,,1", "Target 1 without a box, patients eee"),
        (f"eee,{BOX},0", "a box without Target 1"),
        ("aaa,,,,,0", "patients with Target 0 and 1: aaa"),
        (",,,,,0", "column 'patientId' is blank in 1 rows, first in line 9"),
    ],
)
def test_rows_that_cannot_be_used(fake, line, message):
    fake.lines.append(line)
    with pytest.raises(InputError, match=f"stage_2_train_labels.csv: .*{message}"):
        read(fake)


def test_files_without_a_row_are_counted(fake):
    fake.add("eee")
    fake.lines.pop()
    assert read(fake).notes["files_without_row"] == 1


@pytest.mark.parametrize("name", ["aaa.DCM", "aaa.dicom", "aaa"])
def test_dicom_files_under_another_suffix_or_none(fake, name):
    folder = fake.root / "stage_2_train_images"
    (folder / "aaa.dcm").rename(folder / name)
    raw = read(fake)
    assert raw.rows["image_path"][0] == f"stage_2_train_images/{name}" and raw.rows["view"][0] == "PA"
    assert raw.rows["reason"].null_count() == 4 and raw.notes["files_without_row"] == 0


def test_an_id_that_climbs_out_of_the_root_is_rejected_unread(fake):
    outside = fake.add("../../outside/x")
    assert outside.is_file()
    row = read(fake).rows.row(-1, named=True)
    assert (row["reason"], row["view"]) == ("outside_root", None)


def test_a_glob_in_the_root_is_no_glob(tmp_path):
    ours, other = FakeRsna(tmp_path / "rsna[1]"), FakeRsna(tmp_path / "rsna1")
    ours.add("ours")
    other.add("theirs")
    other.write()
    assert read(ours).rows["image_id"].to_list() == ["ours"]
