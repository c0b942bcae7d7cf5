import numpy as np
import pytest
from PIL import Image

from medunifier.data.image_decoding import decode_file, decode_image
from tests.support.fake_files import dicom_file, image_file
from tests.support.grey_images import save, smooth


def block_means(array, size):
    k = array.shape[0] // size
    return array.reshape(size, k, size, k).astype(float).mean((1, 3))


def test_a_png_of_the_right_size_is_kept_as_it_is(tmp_path):
    array = smooth(24, 24)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "a.png", array), 24, "squash"), array)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG"])
def test_shrinking_averages(tmp_path, name):
    array = smooth(512, 512)
    small = decode_image(save(tmp_path / name, array), 32, "squash")
    assert small.dtype == np.uint8
    assert np.abs(small - block_means(array, 32)).max() < 4
    stripes = np.zeros((512, 512), np.uint8)
    stripes[:, ::2] = 255  # subsampling would give all black or all white
    small = decode_image(save(tmp_path / name, stripes), 32, "squash")
    assert np.abs(small[:, 2:-2].astype(float) - 127.5).max() < 6


def test_the_short_cut_for_large_jpegs_gives_the_same_image(tmp_path):
    array = smooth(1000, 800)
    path = save(tmp_path / "a.jpg", array, quality=95)
    slow = np.asarray(Image.open(path).resize((64, 64), Image.Resampling.LANCZOS), float)
    assert np.abs(decode_image(path, 64, "squash") - slow).max() <= 2


def test_aspect(tmp_path):
    array = smooth(40, 80)
    path = save(tmp_path / "a.png", array)
    pad = decode_image(path, 80, "pad")
    np.testing.assert_array_equal(pad[20:60], array)
    assert not pad[:20].any() and not pad[60:].any()
    np.testing.assert_array_equal(decode_image(path, 40, "crop"), array[:, 20:60])
    squash = decode_image(path, 40, "squash")
    assert np.abs(squash - array.reshape(40, 40, 2).mean(2)).max() < 4
    np.testing.assert_array_equal(decode_image(save(tmp_path / "b.png", array.T), 80, "pad"), pad.T)


def test_sixteen_bits_are_scaled_by_the_stored_range_not_cut(tmp_path):
    array = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    path = save(tmp_path / "a.png", array)
    for bits in ("declared", "used"):
        assert np.abs(decode_image(path, 16, "squash", bits) - expected).max() <= 1
    dim = save(tmp_path / "b.png", (array // 4).astype(np.uint16))
    decoded = decode_image(dim, 16, "squash", "declared")
    assert decoded.max() == 64, "the brightest pixel does not become white"


@pytest.mark.parametrize(
    ("brightest", "used"),
    [(4095, 12), (4000, 12), (4096, 13), (1023, 10), (300, 9), (255, 8), (3, 8), (0, 8)],
)
def test_sixteen_bits_are_scaled_by_the_bits_in_use(tmp_path, brightest, used):
    array = np.linspace(0, brightest, 256).astype(np.uint16).reshape(16, 16)
    path = save(tmp_path / "a.png", array)
    found = decode_file(path, 16, "squash")
    assert np.abs(found.pixels - array * 255.0 / (2**used - 1)).max() <= 0.51
    assert found.notes == (f"{used} of 16 declared bits used",)
    assert decode_file(path, 16, "squash", bits="declared").notes == ()


def test_other_kinds_of_png(tmp_path):
    grey = smooth(16, 16)
    for mode in ("RGB", "RGBA", "LA", "P"):
        path = tmp_path / f"{mode}.png"
        Image.fromarray(grey).convert(mode).save(path)
        assert np.abs(decode_image(path, 16, "squash").astype(int) - grey).max() <= 1, mode
    reversed_palette = Image.fromarray(255 - grey)
    reversed_palette.putpalette([255 - n // 3 for n in range(768)])
    reversed_palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "palette.png", 16, "squash"), grey)
    hidden = np.dstack([grey, np.where(np.arange(16) < 8, 255, 0) * np.ones((16, 1))]).astype(np.uint8)
    shown = decode_image(save(tmp_path / "hidden.png", hidden), 16, "squash")
    np.testing.assert_array_equal(shown[:, :8], grey[:, :8])
    assert not shown[:, 8:].any(), "what is transparent is black"
    black_and_white = grey > 128
    np.testing.assert_array_equal(
        decode_image(save(tmp_path / "bits.png", black_and_white), 16, "squash"), black_and_white * 255
    )


def test_colour_jpegs_and_their_orientation(tmp_path):
    grey = smooth(64, 64)
    for mode in ("RGB", "CMYK"):
        path = tmp_path / f"{mode}.jpg"
        Image.fromarray(grey).convert(mode).save(path, quality=98)
        assert np.abs(decode_image(path, 64, "squash").astype(int) - grey).max() <= 4, mode
    exif = Image.Exif()
    exif[0x0112] = 6  # the image is to be turned by 90 degrees clockwise
    path = save(tmp_path / "turned.jpg", grey, quality=98, exif=exif)
    assert np.abs(decode_image(path, 64, "squash").astype(int) - np.rot90(grey, -1)).max() <= 4


def test_the_content_decides_not_the_suffix(tmp_path):
    values = smooth(32, 32)
    contents = {
        "jpg": image_file(values, "JPEG"),
        "png": image_file(values, "PNG"),
        "dcm": dicom_file(values),
    }
    for kind, content in contents.items():
        (tmp_path / f"right.{kind}").write_bytes(content)
        expected = decode_image(tmp_path / f"right.{kind}", 32, "squash")
        for name in ("a.JPG", "a.DCM", "a.dicom", "a.PNG", "a.jpeg", "a", "1.2.840.10008", "a.txt"):
            (tmp_path / name).write_bytes(content)
            np.testing.assert_array_equal(decode_image(tmp_path / name, 32, "squash"), expected)
