"""Image files of each format, spoiled: rejected with a reason, or the grey values are those of the whole file."""

import hashlib
import zlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from medunifier.data.image_decoding import DecodedImage, decode_file
from tests.bad_input.faults import WHOLE_FILE, Fault, cut, flip, named, replace
from tests.bad_input.outcome import check_outcome
from tests.support.fake_files import dicom_file, image_file
from tests.support.phantom_images import png_16_bits, radiograph

pytestmark = pytest.mark.slow
SIZE = 32


def pillow(kind: str, **options) -> bytes:
    return image_file(radiograph(1), kind, **options)


def big_png() -> bytes:
    """The header of a PNG of 60 000 x 60 000 pixels before the content of a small one."""
    content = bytearray(pillow("PNG"))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


# Name -> content, and whether the format notices any changed byte by itself.
WHOLE: dict[str, tuple[bytes, bool]] = {
    "png": (pillow("PNG"), True),
    "png of 16 bits": (png_16_bits(1), True),
    "jpeg": (pillow("JPEG", quality=90), False),
    "progressive jpeg": (pillow("JPEG", progressive=True), False),
    "jpeg with restarts": (pillow("JPEG", restart_marker_rows=1), False),
    "jpeg 2000": (pillow("JPEG2000"), False),
    "tiff": (pillow("TIFF", compression="tiff_lzw"), False),
    "bmp": (pillow("BMP"), False),
    "gif": (pillow("GIF"), False),
    "webp": (pillow("WEBP", lossless=True), False),
    "dicom": (dicom_file(radiograph(1)), False),
    "dicom with jpeg": (dicom_file(radiograph(1), pillow("JPEG")), False),
}


def appended(path: Path) -> None:
    replace(path, path.read_bytes() + b"appended by a camera" * 10)


def zeros_within(path: Path) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    replace(path, content[:middle] + bytes(64) + content[middle + 64 :])


def twice(path: Path) -> None:
    replace(path, path.read_bytes() * 2)


def a_dicom_of(name: str, value) -> Fault:
    return named(
        lambda path: replace(path, dicom_file(radiograph(1), **{name: value})), f"dicom of {name} {value}"
    )


HARMLESS = (appended, twice)
CUTS = tuple(map(cut, (0.001, 0.1, 0.4, 0.7, 0.95)))
FLIPS = tuple(map(flip, range(6)))
CASES = {
    f"{name}: {fault.__name__}": (name, fault)
    for name in WHOLE
    for fault in (*WHOLE_FILE, *CUTS, zeros_within, *FLIPS, *HARMLESS)
} | {
    f"dicom: {fault.__name__}": ("dicom", fault)
    for fault in (
        a_dicom_of("Rows", 0), a_dicom_of("Rows", 65_535), a_dicom_of("Columns", 1), a_dicom_of("BitsAllocated", 12),
        a_dicom_of("BitsStored", 40), a_dicom_of("SamplesPerPixel", 7), a_dicom_of("PixelRepresentation", 9),
        a_dicom_of("PhotometricInterpretation", "HOLOGRAM"), a_dicom_of("NumberOfFrames", 3),
        a_dicom_of("RescaleSlope", "nan"), a_dicom_of("WindowWidth", "-1"), a_dicom_of("PixelData", b""),
    )
}  # fmt: skip


def decode(path: Path) -> DecodedImage:
    return decode_file(path, SIZE, "pad")


@cache
def grey_values(name: str) -> np.ndarray:
    """Of the whole file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "whole"
        path.write_bytes(WHOLE[name][0])
        return decode(path).pixels


@pytest.mark.parametrize(("name", "fault"), CASES.values(), ids=CASES)
def test_a_spoiled_image(tmp_path: Path, name: str, fault: Fault) -> None:
    """Damage that leaves no trace in a format without checksums is found by a listed checksum, always."""
    content, notices = WHOLE[name]
    path = tmp_path / "image"
    path.write_bytes(content)
    fault(path)
    exact = notices or fault in (*HARMLESS, *WHOLE_FILE)

    def is_an_image(found: DecodedImage) -> None:
        assert found.pixels.shape == (SIZE, SIZE) and found.pixels.dtype == np.uint8
        if exact:
            assert (found.pixels == grey_values(name)).all()

    check_outcome(lambda: decode(path), [""], is_an_image)
    if path.is_file() and fault not in WHOLE_FILE:
        listed = hashlib.sha256(content).hexdigest()
        check_outcome(lambda: decode_file(path, SIZE, "pad", sha256=listed), [""])


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".dcm", ".txt", "", ".JPEG.gz"])
def test_any_name_is_fine_and_the_content_decides(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    path.write_bytes(WHOLE[name][0])
    assert (decode(path).pixels == grey_values(name)).all()


def test_a_small_file_that_claims_billions_of_pixels_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(big_png())
    check_outcome(lambda: decode(path), ["more than 100 megapixels"])
