import pytest

from medunifier.data.layouts import RAW_IMAGES, vindr_cxr
from medunifier.runtime.errors import InputError
from tests.support.fake_vindr import FakeVindr

TUMOR, OTHER, NODULE = "Lung tumor", "Other diseases", "Nodule/Mass"


@pytest.fixture
def fake(tmp_path):
    fake = FakeVindr(tmp_path)
    fake.add(1, "train", {TUMOR: 1, OTHER: 1}, {TUMOR: 1}, {})
    fake.add(2, "train", {NODULE: 1}, {NODULE: 1}, {NODULE: 1})
    fake.add(3, "test", {OTHER: 1})
    return fake


def read(fake):
    fake.write()
    raw = vindr_cxr.read_images(fake.settings())
    RAW_IMAGES.check(raw.rows, "test")
    return raw


def test_each_image_once_with_the_test_images_first(fake):
    raw = read(fake)
    assert [int(image, 16) for image in raw.rows["image_id"]] == [3, 1, 2]
    assert raw.rows["split"].to_list() == ["test", None, None]
    assert raw.rows["patient_id"].equals(raw.rows["image_id"])
    assert set(raw.rows["view"]) == {"PA"}
    assert all((fake.root / path).is_file() for path in raw.rows["image_path"])


def test_readers_who_disagree_make_a_label_uncertain(fake):
    raw = read(fake)
    columns = ("label_lung_tumor", "label_other_diseases", "label_nodule_mass", "label_no_finding")
    assert raw.rows.select(columns).rows() == [(0, 1, 0, 0), (1, -1, 0, 0), (0, 0, 1, 0)]
    assert raw.notes == {"test_label_rows": 1, "train_label_rows": 6, "labels_uncertain": 1}
    assert sum(name.startswith("label_") for name in raw.rows.columns) == 28


def test_a_label_that_no_reader_gave_a_value_is_null(fake):
    fake.add(4, "train", {TUMOR: ""}, {TUMOR: ""}, {TUMOR: ""})
    fake.add(5, "train", {TUMOR: "1.0"}, {TUMOR: ""}, {TUMOR: "1"})
    assert read(fake).rows["label_lung_tumor"].to_list()[-2:] == [None, 1]


@pytest.mark.parametrize("suffix", [".dcm", ".png"])
def test_copies_in_other_formats_are_found(tmp_path, suffix):
    fake = FakeVindr(tmp_path)
    fake.add(1, suffix=suffix)
    fake.add(2, "test")
    rows = read(fake).rows
    assert [path.rsplit(".")[-1] for path in rows["image_path"]] == ["dicom", suffix[1:]]


def test_values_and_columns_that_cannot_be_used(fake):
    fake.rows["train"][1][TUMOR] = "-1"
    with pytest.raises(
        InputError, match=r"image_labels_train\.csv: Lung tumor is '-1', first in line 3; 1 rows .* 1 or 0"
    ):
        read(fake)
    for row in fake.rows["train"]:
        del row[TUMOR]
    with pytest.raises(
        InputError, match=r"image_labels_train\.csv: no column 'Lung tumor'; found image_id, rad_id"
    ):
        read(fake)


def test_a_wrong_value_of_the_test_table_is_named_by_its_own_column(fake):
    fake.rows["test"][0][OTHER] = "x"
    with pytest.raises(InputError, match=r"image_labels_test\.csv: Other disease is 'x', first in line 2"):
        read(fake)
