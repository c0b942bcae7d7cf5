"""Decode image files (JPEG, PNG, DICOM) to grey uint8 squares of one size."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from medunifier.runtime.errors import InputError

if TYPE_CHECKING:  # pydicom takes a quarter of a second to import: only where there are DICOM files
    import pydicom

_DICOM_SUFFIXES = (".dcm", ".dicom")
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG")
_JPEG_END = b"\xff\xd9"
# Errors that Pillow, pydicom and its decoders raise on broken content. Only an OSError without errno counts.
_BROKEN = (
    ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


class UnreadableImage(Exception):
    """The file exists but cannot be decoded completely."""


def decode_image(path: str | Path, size: int, aspect: str) -> np.ndarray:
    """Decode an image file to grey values, antialiased.

    Args:
        path: a JPEG, PNG or other file that Pillow reads, or a DICOM file; the content counts, not the suffix.
        size: height and width of the result in pixels.
        aspect: what is done with an image that is not square: `squash` (distort), `pad` (with black) or `crop`
            (keep the centre).

    Returns:
        uint8 [size, size]; 0 is black.

    Raises:
        UnreadableImage: The content is broken, truncated or of an unsupported kind.
        InputError: The file cannot be opened, or a decoder plug-in is not installed.
    """
    try:
        return square(_read_dicom(path) if is_dicom(path) else _read_image(path, size), size, aspect)
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(
                f"{path}: {os.strerror(error.errno)}; the file was there when the data set was prepared: "
                "check the disk, or run prepare again"
            ) from error
        if "missing dependencies" in str(error):
            raise InputError(f"{path}: {error}") from error
        raise UnreadableImage(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def is_dicom(path: str | Path) -> bool:
    """Return whether a file is DICOM: DICM after 128 bytes (PS3.10, 7.1), or by its suffix if it is no JPEG or PNG."""
    with open(path, "rb") as file:
        head = file.read(132)
    by_suffix = Path(path).suffix.lower() in _DICOM_SUFFIXES and not head.startswith(_IMAGE_STARTS)
    return head[128:] == b"DICM" or by_suffix


def _read_image(path: str | Path, size: int) -> Image.Image:
    """Return a grey image (mode L, or F in 0..255) of at least twice `size`, if the file has that many pixels."""
    with Image.open(path) as image:
        # JPEG can be decoded at 1/2, 1/4 or 1/8 of its size: much faster, and each pixel a proper average.
        image.draft("L", (2 * size, 2 * size))
        image.load()
        return grey(image)


def grey(image: Image.Image) -> Image.Image:
    """Return an upright grey image: mode L, or F in 0..255.

    Raises:
        ValueError: The image is floating-point, so its stored range is unknown.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, stored range 0..65535; Pillow would clip them at 255
        return _grey(np.asarray(image, np.float32), 0, 65535)
    if image.mode == "F":
        raise ValueError("a floating-point image has no stored range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("L")


def _read_dicom(path: str | Path) -> Image.Image:
    """Return a grey image (mode F in 0..255): modality LUT, then VOI LUT or window, then MONOCHROME1 inverted.

    DICOM PS3.3 C.11.1, C.11.2, C.7.6.3.1.2. White is the top of the stored range, not the brightest pixel.
    """
    # Imported here: see the top of the file.
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        return _rendered(pydicom.dcmread(path))
    except (BytesLengthException, InvalidDicomError) as error:
        raise ValueError(str(error)) from error


def _rendered(dataset: pydicom.Dataset) -> Image.Image:
    """Return the grey image of a data set with one frame."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"{dataset.NumberOfFrames} frames, expected one")
    stored = _stored_values(dataset)
    if dataset.SamplesPerPixel == 3:
        return Image.fromarray(stored).convert("L")
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"{dataset.PhotometricInterpretation} pixels, expected grey or RGB ones")
    values = apply_voi_lut(apply_modality_lut(stored, dataset), dataset)
    low, high = _value_range(dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        low, high = high, low
    return _grey(values, low, high)


def _stored_values(dataset: pydicom.Dataset) -> np.ndarray:
    """Return the stored pixel values.

    Pillow decodes 8-bit lossy JPEG: it detects a truncated frame, and gives the same grey values as JPEG files in
    data sets that were made from DICOM files. Other decoders round some pixels differently by 1.

    Raises:
        ValueError: A JPEG frame has no end marker.
    """
    from pydicom import uid
    from pydicom.encaps import get_frame

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == uid.JPEGBaseline8Bit or (syntax == uid.JPEGExtended12Bit and dataset.BitsStored == 8):
        dataset.pixel_array_options(decoding_plugin="pillow")
    elif syntax in (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes):
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        if not frame.rstrip(b"\x00\xff").endswith(_JPEG_END):  # decoders would fill the rest
            raise ValueError("the JPEG frame is cut short: it has no end marker")
    return dataset.pixel_array


def _value_range(dataset: pydicom.Dataset) -> tuple[float, float]:
    """Return the lowest and highest value that the LUTs can give, independent of the pixels."""
    for sequence in ("VOILUTSequence", "ModalityLUTSequence"):
        if dataset.get(sequence):
            return 0, 2 ** dataset[sequence][0].LUTDescriptor[2] - 1
    bits = dataset.BitsStored
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    slope, intercept = 1.0, 0.0
    if "RescaleSlope" in dataset and "RescaleIntercept" in dataset:  # one alone is not applied
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    first, last = sorted((low * slope + intercept, high * slope + intercept))
    return first, last


def _grey(values: np.ndarray, low: float, high: float) -> Image.Image:
    """Map `low` to 0 and `high` to 255 (mode F); `low` above `high` inverts.

    8-bit values with the full range stay as they are (mode L): a DICOM file gives the same image as its PNG copy.
    """
    if values.dtype == np.uint8 and {low, high} == {0, 255}:
        return Image.fromarray(values if low == 0 else 255 - values)
    return Image.fromarray(np.clip((values - low) * (255 / (high - low)), 0, 255).astype(np.float32))


def square(image: Image.Image, size: int, aspect: str) -> np.ndarray:
    """Resize a grey image (see `grey`) to uint8 [size, size]; `aspect` as for `decode_image`."""
    width, height = image.size
    target, box = (size, size), (0, 0, width, height)
    if aspect == "pad":
        longest = max(width, height)
        target = (max(1, round(size * width / longest)), max(1, round(size * height / longest)))
    elif aspect == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    resized = np.asarray(image.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))
    if resized.dtype != np.uint8:
        resized = np.clip(np.rint(resized), 0, 255).astype(np.uint8)
    canvas = np.zeros((size, size), np.uint8)
    top, left = (size - resized.shape[0]) // 2, (size - resized.shape[1]) // 2
    canvas[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return canvas
