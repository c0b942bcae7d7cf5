"""Files that are no whole image: damaged, too large, or no image at all."""

import hashlib
import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image

from medunifier.data.image_content import TooLargeImage, UnreadableImage, WrongChecksum, check_jpeg
from medunifier.data.image_decoding import decode_file, decode_image
from medunifier.runtime.errors import InputError
from tests.support.fake_files import dicom_file, image_file
from tests.support.grey_images import noise, save, smooth


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_image_is_never_taken_for_a_whole_one(tmp_path, kind):
    buffer = io.BytesIO()
    array = smooth(200, 200) + np.random.default_rng(0).integers(0, 20, (200, 200), dtype=np.uint8)
    Image.fromarray(array).save(buffer, kind)
    whole = buffer.getvalue()
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(whole)
    expected = decode_image(path, 50, "squash")
    refused = 0
    for length in [*range(0, len(whole), len(whole) // 25), len(whole) - 30]:
        path.write_bytes(whole[:length])
        try:
            np.testing.assert_array_equal(decode_image(path, 50, "squash"), expected)
        except UnreadableImage:
            refused += 1
    assert refused >= 26


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"\xff\xd8\xff\xe0garbage", b"\x89PNG\r\n\x1a\n"]
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "dcm"])
def test_what_is_no_image_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage):
        decode_image(path, 8, "squash")


@pytest.mark.parametrize("suffix", ["jpg", "dcm"])
def test_a_file_that_is_gone_is_no_bad_image(tmp_path, suffix):
    with pytest.raises(InputError, match=f"gone.{suffix}: No such file.*run prepare again"):
        decode_image(tmp_path / f"gone.{suffix}", 8, "squash")


def test_every_flipped_bit_of_a_png_is_noticed(tmp_path):
    """Flips in the eight bytes of the signature make it another kind of file, all others break a CRC or a length."""
    whole = image_file(smooth(20, 20), "PNG")
    path = tmp_path / "a.png"
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(UnreadableImage):
            decode_image(path, 20, "squash")
    path.write_bytes(whole + b"what follows the last chunk does not count")
    decode_image(path, 20, "squash")


def test_a_jpeg_whose_pixels_were_overwritten_is_refused(tmp_path):
    """Most such files Pillow refuses itself; of others it drops the warning with which libjpeg decodes them."""
    whole = image_file(noise(256, 256), "JPEG")
    path, rng = tmp_path / "a.jpg", np.random.default_rng(0)
    starts = range(1000, len(whole) - 5000, 150)
    refused, by_markers = 0, 0
    for start in starts:
        path.write_bytes(whole[:start] + rng.bytes(512) + whole[start + 512 :])
        try:
            decode_image(path, 32, "squash")
        except UnreadableImage as problem:
            refused += 1
            by_markers += "the JPEG file is damaged" in str(problem)
    assert refused >= 0.75 * len(starts) and by_markers >= 3


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_blocks": 5}, {"quality": 100}, {}]
)
def test_whole_jpegs_pass_the_check_of_their_markers(options):
    whole = image_file(noise(200, 120), "JPEG", **options)
    assert check_jpeg(whole) == check_jpeg(whole + bytes(100)) == ()
    table = whole.index(b"\xff\xdb")
    assert check_jpeg(whole[:table] + b"\xff\xff" + whole[table:]) == (), "fill bytes"
    assert check_jpeg(whole[:table] + b"abc" + whole[table:]) == (
        "JPEG with stray bytes between its markers",
    )


def test_an_end_within_the_pixels_of_a_jpeg_is_counted(tmp_path):
    """The decoder guesses the rest without a word; the bytes after the end give it away."""
    whole = image_file(noise(200, 120), "JPEG")
    middle = whole.index(b"\xff\xda") + 2000
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:middle] + b"\xff\xd9" + whole[middle + 2 :])
    assert decode_file(path, 224, "squash").notes == ("JPEG with bytes after its end",)


def test_restart_markers_out_of_order_are_damage():
    whole = image_file(noise(200, 120), "JPEG", restart_marker_blocks=5)
    assert whole.count(b"\xff\xd3") > 1
    with pytest.raises(UnreadableImage, match="marker FFD5 at byte"):
        check_jpeg(whole.replace(b"\xff\xd3", b"\xff\xd5", 1))


def test_a_listed_checksum_is_compared_after_decoding(tmp_path):
    path = save(tmp_path / "a.png", smooth(16, 16))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    decode_file(path, 16, "squash", sha256=digest.upper())
    with pytest.raises(WrongChecksum, match=f"SHA-256 is {digest}, listed is 00"):
        decode_file(path, 16, "squash", sha256="00")
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(UnreadableImage, match="truncated"):
        decode_file(path, 16, "squash", sha256="00")


@pytest.mark.parametrize("suffix", ["png", "dcm"])
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, suffix):
    array = np.zeros((1001, 1000), np.uint8)
    content = image_file(array, "PNG") if suffix == "png" else dicom_file(array)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(TooLargeImage, match="1000 x 1001 pixels, more than 1 megapixels"):
        decode_file(path, 16, "squash", max_megapixels=1)
    decode_file(path, 16, "squash", max_megapixels=2)
    with path.open("ab") as file:
        file.truncate(8_000_001)
    with pytest.raises(TooLargeImage, match="8,000,001 bytes"):
        decode_file(path, 16, "squash", max_megapixels=1)


def test_a_decompression_bomb_is_too_large(tmp_path):
    whole = bytearray(image_file(np.zeros((4, 4), np.uint8), "PNG"))
    whole[16:24] = (100_000).to_bytes(4) + (100_000).to_bytes(4)
    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4)
    (tmp_path / "a.png").write_bytes(whole)
    with pytest.raises(UnreadableImage):
        decode_file(tmp_path / "a.png", 16, "squash")


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "long", "nul"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "a.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "long":
        path = tmp_path / ("a" * 300)
    else:
        path = f"{tmp_path}/a\0b.jpg"
    with pytest.raises(UnreadableImage):
        decode_image(path, 8, "squash")


def test_warnings_of_decoders_become_notes(tmp_path, recwarn):
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x09\x00\x01\x00\x00"
    path = save(tmp_path / "a.jpg", smooth(16, 16), exif=exif)
    found = decode_file(path, 16, "squash")
    assert len(found.notes) == 1 and found.notes[0].startswith("UserWarning: ")
    assert not recwarn.list
