import pytest

from medunifier.data.layouts import RAW_IMAGES, covidx
from medunifier.runtime.errors import InputError
from tests.support.entries import entry
from tests.support.fake_covidx import FakeCovidx

LABELS = ("label_normal", "label_pneumonia", "label_covid_19")


@pytest.fixture
def fake(tmp_path):
    fake = FakeCovidx(tmp_path)
    fake.add("3 a.png COVID-19 cohen", "a.png")
    fake.add("p4 b c.png normal rsna", "b c.png")  # a space in the file's name: five fields
    fake.add("5 d.png pneumonia", "d.png")  # no source: three fields
    fake.add("6 e.png pneumonia fig 1", "e.png")  # a source with a space
    fake.add("7 f.png normal rnsa", "f.png", "test")  # a misspelt source
    return fake


def read(fake):
    fake.write()
    raw = covidx.read_images(fake.settings())
    RAW_IMAGES.check(raw.rows, "test")
    return raw


def test_lines_of_three_to_five_fields(fake):
    raw = read(fake)
    assert raw.rows["patient_id"].to_list() == ["7", "3", "p4", "5", "6"]
    assert raw.rows["image_path"].to_list() == [
        "test/f.png", "train/a.png", "train/b c.png", "train/d.png", "train/e.png",
    ]  # fmt: skip
    assert all((fake.root / path).is_file() for path in raw.rows["image_path"])
    assert raw.rows["split"].to_list() == ["test"] + [None] * 4


def test_a_line_without_patient_stands_for_one(fake):
    fake.add("g.png normal rsna", "g.png", "test")
    assert read(fake).rows.row(1)[:2] == ("g.png", "g.png")


def test_three_classes_are_mapped_by_name_and_counted(fake):
    raw = read(fake)
    assert raw.rows.select(LABELS).rows() == [(1, 0, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 1, 0)]
    assert raw.notes == {"class_covid_19": 1, "class_normal": 2, "class_pneumonia": 2}


def test_patients_of_two_words_and_files_without_spaces_as_lists_7a_to_8b_have_them(tmp_path):
    fake = FakeCovidx(tmp_path)
    fake.add("COVID 70 COVID(70).png positive sirm", "COVID(70).png")
    fake.add("COVID 71 COVID(71).png positive sirm", "COVID(71).png")
    fake.add("COVID 72 COVID(72).png positive sirm", "COVID(72).png", "test").unlink()
    raw = read(fake)
    assert raw.rows["patient_id"].to_list() == ["COVID 72", "COVID 70", "COVID 71"]
    assert raw.rows["image_path"].to_list() == [
        "test/COVID(72).png",
        "train/COVID(70).png",
        "train/COVID(71).png",
    ]


def test_a_byte_order_mark_is_no_part_of_a_patient(fake):
    fake.write()
    path = fake.root / "labels/test_COVIDx9A.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert covidx.read_images(fake.settings()).rows["patient_id"][0] == "7"


def test_a_patient_written_as_a_missing_value_is_none_and_counted(fake):
    fake.add("nan h.png normal rsna", "h.png")
    fake.add("None i.png normal rsna", "i.png")
    fake.add("9.0 j.png normal rsna", "j.png")
    raw = read(fake)
    assert raw.rows["patient_id"].to_list()[-3:] == ["h.png", "i.png", "9"]
    assert raw.notes["images_without_patient"] == 2


def test_a_binary_list_says_nothing_of_normal_and_pneumonia(tmp_path):
    fake = FakeCovidx(tmp_path)
    fake.add("1 a.png positive cohen", "a.png")
    fake.add("2 b.png negative rsna", "b.png", "test")
    assert read(fake).rows.select(LABELS).rows() == [(None, None, 0), (None, None, 1)]


def test_lists_of_different_classes_are_not_mixed(fake):
    fake.add("8 h.png positive rsna", "h.png", "test")
    with pytest.raises(
        InputError, match=r"two-class and three-class lists are mixed .found COVID-19, normal"
    ):
        read(fake)


@pytest.mark.parametrize("line", ["9 i.png tuberculosis sirm", "9 i.png covid-19 sirm", "9", "normal x"])
def test_unknown_classes_are_refused_with_their_line(fake, line):
    fake.lines["train"].append(line)
    with pytest.raises(
        InputError, match=r"train_COVIDx9A\.txt, line 5: .* has no known class; .* normal, pneum"
    ):
        read(fake)


def test_a_class_s_name_in_a_file_s_name_is_no_class(fake):
    fake.lines["train"].append("9 my normal chest film.png Covid sirm")
    with pytest.raises(InputError, match="no known class"):
        read(fake)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such index file"), ("\n", "empty"), (b"\xff", "UTF-8")]
)
def test_lists_that_cannot_be_read(fake, content, message):
    fake.write()
    path = fake.root / "labels/test_COVIDx9A.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=f"test_COVIDx9A.txt(, line 1)?: .*{message}"):
        covidx.read_images(fake.settings())


@pytest.fixture
def cxr4(tmp_path):
    fake = FakeCovidx(tmp_path, {})
    fake.add_cxr4("MIDRC-1 a.png positive midrc", "a.png", "train")
    fake.add_cxr4("2 b.png negative rsna", "b.png", "val")
    fake.add_cxr4("3 c.png negative rsna", "c.png", "test")
    fake.write_cxr4()
    return fake


def test_the_three_lists_of_cxr_4_are_the_official_split(cxr4):
    raw = covidx.read_images(entry("covidx-cxr4", cxr4.root))
    assert raw.rows.select("image_id", "split", "label_covid_19").rows() == [
        ("c.png", "test", 0), ("b.png", "validate", 0), ("a.png", "train", 1),
    ]  # fmt: skip
    assert all((cxr4.root / path).is_file() for path in raw.rows["image_path"])


def test_without_the_validation_list_the_train_list_has_no_official_split(cxr4):
    settings = entry("covidx-cxr4", cxr4.root, split="two_step")
    settings = settings.replace(index=settings.index.replace(labels="train.txt"))
    assert covidx.read_images(settings).rows["split"].to_list() == ["test", None]


def test_three_lists_are_not_split_in_two_steps(cxr4):
    with pytest.raises(
        InputError, match=r"val\.txt: with a validation list the split is whole; set `split: official`"
    ):
        covidx.read_images(entry("covidx-cxr4", cxr4.root, split="two_step"))
