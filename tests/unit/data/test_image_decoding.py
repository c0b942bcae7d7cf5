import io

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
from medunifier.data.image_decoding import UnreadableImage, decode_image
from medunifier.runtime.errors import InputError
from tests.support import jpeg_lossless
from tests.support.fake_files import dicom_file, image_file, pixels, put
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
    decoded = decode_image(save(tmp_path / "a.png", array), 16, "squash")
    assert np.abs(decoded - expected).max() <= 1
    dim = decode_image(save(tmp_path / "b.png", (array // 4).astype(np.uint16)), 16, "squash")
    assert dim.max() == 64, "the brightest pixel does not become white"


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
    assert_close(decode_image(path, side, "squash"), np.clip(np.asarray(expected), 0, 255))


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


@pytest.mark.parametrize("name", ["x", "x.DCM", "x.dicom", "x.jpg", "1.2.840.113"])
def test_dicom_files_are_known_by_their_content(tmp_path, name):
    values = pixels("content")
    decoded = decode_image(put(tmp_path / name, dicom_file(values)), 32, "squash")
    np.testing.assert_array_equal(decoded, values)


@pytest.mark.parametrize("name", ["x.PNG", "x.dcm", "x"])
def test_other_images_are_known_by_their_content(tmp_path, name):
    values = pixels("content")
    np.testing.assert_array_equal(
        decode_image(put(tmp_path / name, image_file(values, "PNG")), 32, "squash"), values
    )
