"""DICOM: values, windows, lookup tables and frames as pydicom and the decoders of others have them."""

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
from medunifier.data.image_content import UnreadableImage
from medunifier.data.image_decoding import decode_file, decode_image
from tests.support import jpeg_lossless
from tests.support.fake_files import dicom_file, image_file
from tests.support.grey_images import noise
from tests.support.paths import SHARED

SAMPLES = SHARED / "data" / "dicom-samples"


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
