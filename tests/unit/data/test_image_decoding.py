import hashlib
import io
import os
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medunifier.data.dicom_headers import view_position
from medunifier.data.image_content import TooLargeImage, UnreadableImage, WrongChecksum, check_jpeg
from medunifier.data.image_decoding import decode_file, decode_image
from medunifier.runtime.errors import InputError
from tests.support import jpeg_lossless
from tests.support.fake_files import dicom_file, image_file
from tests.support.paths import SHARED

SAMPLES = SHARED / "data" / "dicom-samples"


def smooth(height, width):
    """A smooth image with values from 20 to 230."""
    y, x = np.mgrid[0:height, 0:width]
    wave = np.sin(x / width * 5) + np.cos(y / height * 4) + x / width
    return (20 + 210 * (wave - wave.min()) / np.ptp(wave)).astype(np.uint8)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


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


def dicom(
    path, stored, *, bits=12, signed=False, syntax=None, packed=None, interpretation="MONOCHROME2", **tags
):
    """A DICOM file with `stored` as its pixels, compressed by `syntax`, or with `packed` for its compressed frame."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *stored.shape, 1
    dataset.PhotometricInterpretation = interpretation
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 if bits == 8 else 16, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = stored.astype("u1" if bits == 8 else "<i2" if signed else "<u2").tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name, value in tags.items():
        setattr(dataset, name, value)
    if packed is not None:
        dataset.PixelData = encapsulate([packed])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax:
        dataset.compress(syntax)
    dataset.save_as(path, enforce_file_format=True)
    return path


STORED = (np.arange(0, 4096) * 5 // 8).reshape(64, 64)  # 12 bits would reach 4095
SCALED = STORED * 255 / 4095


def assert_close(decoded, expected):
    assert np.abs(decoded - expected).max() <= 0.51


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless, JPEGLosslessSV1])
def test_dicom_is_scaled_by_its_stored_range(tmp_path, syntax, bits):
    stored = STORED * 2**bits // 4096
    packed = jpeg_lossless.encode(stored, bits) if syntax == JPEGLosslessSV1 else None
    path = dicom(tmp_path / "a.dcm", stored, bits=bits, syntax=syntax, packed=packed)
    assert_close(decode_image(path, 64, "squash"), stored * 255 / (2**bits - 1))


@pytest.mark.parametrize(
    ("syntax", "kind", "options", "difference"),
    [
        (JPEGBaseline8Bit, "JPEG", {"quality": 90}, 0),
        (JPEGExtended12Bit, "JPEG", {"quality": 90}, 0),
        (JPEG2000, "JPEG2000", {"no_jp2": True, "irreversible": True, "quality_layers": [20]}, 1),
    ],
)
def test_dicom_with_a_lossy_frame_is_what_pillow_decodes(tmp_path, syntax, kind, options, difference):
    buffer = io.BytesIO()
    noisy = noise(64, 64)
    Image.fromarray(noisy).save(buffer, kind, **options)
    path = dicom(tmp_path / "a.dcm", noisy, bits=8, syntax=syntax, packed=buffer.getvalue())
    shown = np.asarray(Image.open(buffer), int)
    assert np.abs(decode_image(path, 64, "squash") - shown).max() <= difference


@pytest.mark.parametrize("name", ["CT_small", "MR_small", "693_J2KI", "JPEG2000", "JPGExtended", "image_dfl"])
def test_dicom_of_other_makers_as_pydicom_shows_it(name):
    """Pydicom's own chain of LUTs, then its range to 8 bit, at full size."""
    path = get_testdata_file(f"{name}.dcm")
    dataset = pydicom.dcmread(path)
    values = apply_modality_lut(dataset.pixel_array, dataset)
    bits = 2**dataset.BitsStored
    ends = np.array([-bits // 2, bits // 2 - 1] if dataset.PixelRepresentation else [0, bits - 1])
    low, high = ends * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    shown = np.clip((apply_voi_lut(values, dataset) - low) / (high - low), 0, 1) * 255
    side = max(shown.shape)
    expected = Image.fromarray(shown.astype(np.float32)).resize((side, side), Image.Resampling.LANCZOS)
    assert_close(decode_image(path, side, "squash", "declared"), np.clip(np.asarray(expected), 0, 255))


def test_dicom_of_sixteen_bits_is_scaled_by_the_bits_in_use_unless_it_has_a_window(tmp_path):
    path = dicom(tmp_path / "a.dcm", STORED, bits=16)
    found = decode_file(path, 64, "squash")
    assert_close(found.pixels, SCALED)
    assert found.notes == ("12 of 16 declared bits used",)
    assert_close(decode_image(path, 64, "squash", "declared"), STORED * 255 / 65535)
    inverted = dicom(tmp_path / "b.dcm", STORED, bits=16, interpretation="MONOCHROME1")
    assert_close(decode_image(inverted, 64, "squash"), 255 - SCALED)
    signed = dicom(
        tmp_path / "c.dcm", STORED - 2048, bits=16, signed=True, RescaleSlope=2, RescaleIntercept=5
    )
    assert_close(decode_image(signed, 64, "squash"), SCALED)
    window = {"WindowCenter": 1000, "WindowWidth": 1000}
    shown = [
        decode_image(dicom(tmp_path / "d.dcm", STORED, bits=16, **window), 64, "squash", bits)
        for bits in ("declared", "used")
    ]
    np.testing.assert_array_equal(*shown)


def test_dicom_monochrome1_is_inverted_and_rescaling_does_not_matter(tmp_path):
    path = dicom(tmp_path / "a.dcm", STORED, interpretation="MONOCHROME1")
    assert_close(decode_image(path, 64, "squash"), 255 - SCALED)
    path = dicom(tmp_path / "b.dcm", STORED, RescaleSlope=2, RescaleIntercept=-1024)
    assert_close(decode_image(path, 64, "squash"), SCALED)
    path = dicom(tmp_path / "c.dcm", STORED - 2048, signed=True)
    assert_close(decode_image(path, 64, "squash"), SCALED)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_window(tmp_path, interpretation):
    """PS3.3 C.11.2.1.2.1, after rescaling, first of several windows."""
    windows = {"WindowCenter": [1001, 5], "WindowWidth": [1001, 7]}
    path = dicom(
        tmp_path / "a.dcm",
        STORED,
        interpretation=interpretation,
        RescaleSlope=2,
        RescaleIntercept=-1000,
        **windows,
    )
    fraction = np.clip((STORED * 2.0 - 1000 - 1000.5) / 1000 + 0.5, 0, 1)
    if interpretation == "MONOCHROME1":
        fraction = 1 - fraction
    assert_close(decode_image(path, 64, "squash"), fraction * 255)


@pytest.mark.parametrize(("name", "bits"), [("VOILUTSequence", 10), ("ModalityLUTSequence", 16)])
def test_dicom_lookup_tables(tmp_path, name, bits):
    values = (np.arange(4096) * 2**bits // 8192).astype("<u2")  # reaches the middle of its range
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, bits]
    table.add_new("LUTData", "OW", values.tobytes())
    table.ModalityLUTType = "US"
    path = dicom(tmp_path / "a.dcm", STORED, **{name: [table]})
    assert_close(decode_image(path, 64, "squash"), values[STORED] * 255.0 / (2**bits - 1))


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm"),  # JPEG lossless, process 14
    ],
)
def test_dicom_decoders(compressed, plain):
    decoded = [decode_image(get_testdata_file(name), 64, "squash") for name in (compressed, plain)]
    np.testing.assert_array_equal(*decoded)


@pytest.mark.filterwarnings("ignore:End of file reached")
def test_dicom_that_is_truncated_or_no_single_grey_image(tmp_path):
    whole = dicom(tmp_path / "whole.dcm", STORED, syntax=JPEG2000Lossless).read_bytes()
    for length in (200, len(whole) // 2, len(whole) - 40):
        (tmp_path / "a.dcm").write_bytes(whole[:length])
        with pytest.raises(UnreadableImage):
            decode_image(tmp_path / "a.dcm", 8, "squash")
    for name in ("MR_truncated.dcm", "SC_rgb_rle_2frame.dcm", "examples_palette.dcm"):
        with pytest.raises(UnreadableImage):
            decode_image(get_testdata_file(name), 8, "squash")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # pydicom warns of what it finds wrong before it gives up
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit])
def test_dicom_cut_anywhere_in_its_header_has_no_view_or_its_own_and_no_image(tmp_path, syntax):
    values = noise(16, 16)
    jpeg = image_file(values, "JPEG") if syntax == JPEGBaseline8Bit else None
    whole = dicom_file(values, jpeg, ViewPosition="AP", WindowCenter="128", WindowWidth="256")
    if syntax == ImplicitVRLittleEndian:
        dataset = pydicom.dcmread(io.BytesIO(whole))
        dataset.file_meta.TransferSyntaxUID = syntax
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True, enforce_file_format=True)
        whole = buffer.getvalue()
    path = tmp_path / "a.dcm"
    path.write_bytes(whole)
    assert view_position(path) == "AP" and decode_image(path, 16, "squash").std() > 30
    seen = set()
    for length in range(whole.index(b"\xe0\x7f\x10\x00")):  # where the pixel data start
        path.write_bytes(whole[:length])
        seen.add(view_position(path))
        with pytest.raises(UnreadableImage):
            decode_image(path, 16, "squash")
    assert {None, "AP"} <= seen


def test_dicom_with_a_view_of_an_unknown_kind_has_none(tmp_path):
    whole = dicom_file(noise(16, 16), ViewPosition="AP")
    path = tmp_path / "a.dcm"
    path.write_bytes(whole.replace(b"\x18\x00\x01\x51CS", b"\x18\x00\x01\x51CZ"))
    assert view_position(path) is None


def jpeg_frame(kind):
    """A DICOM file's transfer syntax, its compressed frame, and the bits of its pixels."""
    if kind == "lossless":
        return JPEGLosslessSV1, jpeg_lossless.encode(STORED, 12), 12
    if kind == "baseline":
        return JPEGBaseline8Bit, image_file(noise(64, 64), "JPEG"), 8
    whole = pydicom.dcmread(get_testdata_file("MR_small_jpeg_ls_lossless.dcm"))
    return JPEGLSLossless, next(generate_frames(whole.PixelData, number_of_frames=1)), 16


@pytest.mark.parametrize("kind", ["baseline", "lossless", "JPEG-LS"])
def test_dicom_whose_jpeg_frame_is_cut_inside_a_whole_container(tmp_path, kind):
    syntax, frame, bits = jpeg_frame(kind)

    def decoded(content):
        path = dicom(tmp_path / "a.dcm", STORED, bits=bits, syntax=syntax, packed=content)
        return decode_image(path, 64, "squash")

    whole = decoded(frame)
    for length in [*range(2, len(frame) - 2, len(frame) // 20), len(frame) - 8]:
        with pytest.raises(UnreadableImage):
            decoded(frame[:length])
    for padding in (b"\0", b"\0" * 7, b"\xff"):
        np.testing.assert_array_equal(decoded(frame + padding), whole)


def test_a_rescale_slope_without_its_intercept_is_not_applied(tmp_path):
    """PS3.3 C.11.1.1.2: the two come together; pydicom applies neither alone."""
    for tags in ({"RescaleSlope": 2}, {"RescaleIntercept": -1024}):
        assert_close(decode_image(dicom(tmp_path / "a.dcm", STORED, **tags), 64, "squash"), SCALED)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"the DICOM samples are not at {SAMPLES}")
def test_a_real_jpeg_compressed_radiograph_and_its_relabelled_copy():
    """The files differ in one byte, MONOCHROME2 or 1: what is inverted is the source, so the image has to be."""
    paths = SAMPLES / "siim_jpeg_baseline_monochrome2.dcm", SAMPLES / "siim_relabelled_monochrome1.dcm"
    contents = [path.read_bytes() for path in paths]
    assert [pair for pair in zip(*contents, strict=True) if pair[0] != pair[1]] == [(ord("2"), ord("1"))]
    plain, inverted = (decode_image(path, 1024, "squash") for path in paths)
    np.testing.assert_array_equal(inverted, 255 - plain)
    frame = next(generate_frames(pydicom.dcmread(paths[0]).PixelData, number_of_frames=1))
    np.testing.assert_array_equal(plain, np.asarray(Image.open(io.BytesIO(frame))), "as Pillow has it")
    assert plain.std() > 30


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
