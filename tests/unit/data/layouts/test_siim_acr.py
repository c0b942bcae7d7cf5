import shutil

import numpy as np
import pytest

from medunifier.data.layouts import RAW_IMAGES, siim_acr
from medunifier.phantom.siim_layout import run_lengths
from medunifier.runtime.errors import InputError
from tests.support.fake_files import image_file, pixels, put
from tests.support.fake_siim import FakeSiim


@pytest.fixture
def fake(tmp_path):
    fake = FakeSiim(tmp_path)
    fake.add("1.2.1", " 387620 23 996 33", " 100 5")
    fake.add("1.2.2")
    fake.add("1.2.3", view="AP")
    return fake


def read(fake):
    fake.write()
    raw = siim_acr.read_images(fake.settings())
    RAW_IMAGES.check(raw.rows, "test")
    return raw


@pytest.mark.parametrize("nothing", [" -1", "-1", "-1 "])
@pytest.mark.parametrize("header", ["ImageId, EncodedPixels", "ImageId,EncodedPixels"])
def test_both_spellings_of_header_and_of_no_pneumothorax(fake, nothing, header):
    fake.header = header
    fake.rows = [(image, nothing if mask.strip() == "-1" else mask) for image, mask in fake.rows]
    assert read(fake).rows["label_pneumothorax"].to_list() == [1, 0, 0]


def test_several_masks_of_a_image_are_one_row(fake):
    raw = read(fake)
    assert raw.rows["image_id"].to_list() == ["1.2.1", "1.2.2", "1.2.3"]
    assert raw.notes == {"mask_rows": 4, "images_with_pneumothorax": 1, "files_without_row": 0}


def test_nested_files_are_found(fake):
    extra = fake.add("1.2.9")
    fake.rows.pop()
    raw = read(fake)
    assert raw.rows["image_path"][0] == "dicom-images-train/study-1.2.1/series-1.2.1/1.2.1.dcm"
    assert raw.rows["view"].to_list() == ["PA", "PA", "AP"]
    assert raw.notes["files_without_row"] == 1 and extra.is_file()
    (fake.root / raw.rows["image_path"][1]).unlink()
    rows = read(fake).rows
    assert rows["reason"].to_list() == [None, "missing_image", None] and "1.2.2.dcm" in rows["detail"][1]


@pytest.mark.parametrize("mask", ["12", "1 2 3", "5 x", "0 1048577", "1048570 7", "3 -2"])
def test_run_lengths_that_leave_the_image_or_are_none(fake, mask):
    fake.rows.append(("1.2.2", mask))
    with pytest.raises(InputError, match=r"train-rle\.csv: EncodedPixels of 1 rows, first of image 1\.2\.2"):
        read(fake)


def test_gaps_are_relative_so_that_the_last_pixel_can_be_reached(fake):
    """Read as absolute positions, 1000 long runs that follow each other would not leave the image either."""
    fake.rows[0] = ("1.2.1", " ".join(["48 1000"] * 1000))  # 1000 x 1048 = 1048000 of 1048576 pixels
    assert read(fake).rows["label_pneumothorax"][0] == 1
    fake.rows[0] = ("1.2.1", " ".join(["48 1000"] * 1001))
    with pytest.raises(InputError, match="end inside 1024 x 1024"):
        read(fake)


def test_any_space_between_run_lengths_will_do(fake):
    fake.rows[0] = ("1.2.1", " 387620  23 996\t 33 ")
    assert read(fake).rows["label_pneumothorax"][0] == 1


def test_the_phantom_s_run_lengths_give_its_mask_back(fake):
    """Decoded as the data set describes it: gaps and runs, down the columns, then the next column."""
    random = np.random.default_rng(0)
    noise = random.random((1024, 1024)) < 0.3
    corner = np.zeros((1024, 1024), bool)
    corner[700:, :10] = corner[0, 1023] = corner[1023, 1023] = True
    for mask in (corner, noise, np.ones((1024, 1024), bool)):
        text = run_lengths(mask)
        numbers = list(map(int, text.split()))
        decoded, place = np.zeros(mask.size, bool), 0
        for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
            place += gap
            decoded[place : place + length] = True
            place += length
        rows, columns = np.arange(mask.size) % 1024, np.arange(mask.size) // 1024
        np.testing.assert_array_equal(decoded, mask[rows, columns])
        fake.rows[0] = ("1.2.1", text)
        assert read(fake).rows["label_pneumothorax"][0] == 1
    assert run_lengths(corner).startswith("700 324 700 324")


def test_an_image_with_a_mask_and_without_one_is_an_error(fake):
    fake.rows.append(("1.2.1", "-1"))
    with pytest.raises(InputError, match=r"images with a mask and with -1: 1\.2\.1"):
        read(fake)


def test_stage_2_of_the_challenge(fake):
    fake.header = "ImageId,EncodedPixels"
    fake.write()
    (fake.root / "train-rle.csv").rename(fake.root / "stage_2_train.csv")
    (fake.root / "stage_2_images").mkdir()
    for file in list((fake.root / "dicom-images-train").rglob("*.dcm")):
        file.rename(fake.root / "stage_2_images" / file.name)
    shutil.rmtree(fake.root / "dicom-images-train")
    settings = fake.settings()
    raw = siim_acr.read_images(settings.replace(index=settings.index.replace(images="stage_2_train.csv")))
    assert raw.rows["image_path"].to_list() == [f"stage_2_images/1.2.{n}.dcm" for n in (1, 2, 3)]
    assert raw.rows["view"].to_list() == ["PA", "PA", "AP"] and raw.rows["reason"].null_count() == 3


def test_the_png_copy(fake):
    lines = ["new_filename,ImageId,has_pneumo", "0_train_1_.png,1.2.1,1", "1_train_0_.png,1.2.2,0"]
    put(fake.root / "stage_1_train_images.csv", "\n".join(lines))
    for name in ("0_train_1_.png", "1_train_0_.png", "2_test_0_.png"):
        put(fake.root / "png_images" / name, image_file(pixels(name), "PNG"))
    settings = fake.settings()
    raw = siim_acr.read_images(
        settings.replace(index=settings.index.replace(images="stage_1_train_images.csv"))
    )
    RAW_IMAGES.check(raw.rows, "test")
    assert raw.rows.select("image_id", "image_path", "label_pneumothorax").rows() == [
        ("1.2.1", "png_images/0_train_1_.png", 1),
        ("1.2.2", "png_images/1_train_0_.png", 0),
    ]
    assert raw.notes == {"images_with_pneumothorax": 1, "files_without_row": 1}


@pytest.mark.parametrize("suffix", ["", ".DCM", ".dicom"])
def test_dicom_files_under_another_suffix_or_none_and_below_a_link(fake, suffix):
    for file in list((fake.root / "dicom-images-train").rglob("*.dcm")):
        file.rename(file.with_name(file.name.removesuffix(".dcm") + suffix))
    moved = fake.root.parent / f"{fake.root.name} moved images"
    (fake.root / "dicom-images-train").rename(moved)
    (fake.root / "dicom-images-train").symlink_to(moved)
    raw = read(fake)
    assert raw.rows["reason"].null_count() == 3 and raw.rows["view"].to_list() == ["PA", "PA", "AP"]
    assert (
        all((fake.root / path).is_file() for path in raw.rows["image_path"])
        and raw.notes["files_without_row"] == 0
    )


def test_an_unknown_layout_is_told_with_those_accepted(fake):
    (fake.root / "dicom-images-train").rename(fake.root / "dicoms")
    told = read(fake).warnings
    assert len(told) == 1 and "stage_2_train.csv with stage_2_images/" in told[0] and "png_images/" in told[0]
