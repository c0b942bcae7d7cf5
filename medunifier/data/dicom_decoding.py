"""Decode a DICOM file to a grey image.

White is the top of a range that does not depend on the brightest pixel: that of the window or LUT, of the declared
bits, or of the bits that the pixels use (`images.bits`).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from medunifier.data.grey_values import Depth, bits_used, scaled
from medunifier.data.image_content import TooLargeImage, check_jpeg

if TYPE_CHECKING:  # pydicom takes a quarter of a second to import: only where there are DICOM files
    import pydicom

_JPEG_END = b"\xff\xd9"


def read_dicom(content: bytes, bits: str, max_megapixels: int) -> tuple[Image.Image, Depth]:
    """Return a grey image (mode L, or F in 0..255): modality LUT, then VOI LUT or window, then MONOCHROME1 inverted.

    DICOM PS3.3 C.11.1, C.11.2, C.7.6.3.1.2.

    Args:
        content: the file.
        bits: `declared` or `used`, as for `decode_image`. With a window or LUT the declared bits count.
        max_megapixels: most million pixels.

    Returns:
        The image, and the bits that are declared and used.

    Raises:
        ValueError, and whatever else pydicom and its decoders raise: The content is broken or of another kind.
        TooLargeImage: It has too many pixels.
    """
    # Imported here: see the top of the file.
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        dataset = pydicom.dcmread(io.BytesIO(content))
        pixels = int(dataset.Rows) * int(dataset.Columns)
        if pixels > max_megapixels * 1_000_000:
            raise TooLargeImage(
                f"{dataset.Columns} x {dataset.Rows} pixels, more than {max_megapixels} megapixels"
            )
        return _rendered(dataset, bits)
    except (BytesLengthException, InvalidDicomError) as error:
        raise ValueError(str(error)) from error


def _rendered(dataset: pydicom.Dataset, bits: str) -> tuple[Image.Image, Depth]:
    """Return the grey image of a data set with one frame, and its bits."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"{dataset.NumberOfFrames} frames, expected one")
    stored = _stored_values(dataset)
    if dataset.SamplesPerPixel == 3:
        return Image.fromarray(stored).convert("L"), Depth(8, 8)
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"{dataset.PhotometricInterpretation} pixels, expected grey or RGB ones")
    declared = int(dataset.BitsStored)
    depth = Depth(declared, declared)
    if bits == "used" and not _has_own_range(dataset):
        depth = Depth(declared, bits_used(stored, declared))
    values = apply_voi_lut(apply_modality_lut(stored, dataset), dataset)
    low, high = _value_range(dataset, depth.used)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        low, high = high, low
    return scaled(values, low, high), depth


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
    if syntax not in (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes):
        return dataset.pixel_array
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if syntax == uid.JPEGBaseline8Bit or (syntax == uid.JPEGExtended12Bit and dataset.BitsStored == 8):
        dataset.pixel_array_options(decoding_plugin="pillow")
        values = dataset.pixel_array
        check_jpeg(frame)
        return values
    if not frame.rstrip(b"\x00\xff").endswith(_JPEG_END):  # decoders would fill the rest
        raise ValueError("the JPEG frame is cut short: it has no end marker")
    return dataset.pixel_array


def _has_own_range(dataset: pydicom.Dataset) -> bool:
    """Return whether a window or a LUT says what is white, whatever bits the pixels use."""
    names = ("VOILUTSequence", "ModalityLUTSequence", "WindowCenter")
    return any(dataset.get(name) not in (None, "") for name in names)


def _value_range(dataset: pydicom.Dataset, bits: int) -> tuple[float, float]:
    """Return the lowest and highest value that the LUTs can give for pixels of so many bits."""
    for sequence in ("VOILUTSequence", "ModalityLUTSequence"):
        if dataset.get(sequence):
            return 0, 2 ** dataset[sequence][0].LUTDescriptor[2] - 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    slope, intercept = 1.0, 0.0
    if "RescaleSlope" in dataset and "RescaleIntercept" in dataset:  # one alone is not applied
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    first, last = sorted((low * slope + intercept, high * slope + intercept))
    return first, last
