"""Phantom radiographs as the bytes of files, for fake copies of data sets: small, and different for each number."""

import io
from functools import cache

import numpy as np
from PIL import Image

from medunifier.phantom.single_images import generate_image
from tests.support.fake_files import dicom_file, image_file

SIZE = 64
BITS = 12  # of PadChest-like images: 16 bits are stored, 12 are used


@cache
def radiograph(number: int) -> np.ndarray:
    """A frontal phantom, uint8 [64, 64]; the first few numbers are rendered, the others are shifted copies."""
    base = number % 4
    image = generate_image(np.random.default_rng(base), (base,), (), SIZE, view="PA").pixels
    return np.roll(image, number // 4, axis=1)


def png(number: int) -> bytes:
    return image_file(radiograph(number), "PNG")


def png_16_bits(number: int) -> bytes:
    """A PNG of 16 bits a pixel whose values fill 12."""
    values = np.rint(radiograph(number) / 255 * (2**BITS - 1)).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def dicom(number: int) -> bytes:
    """An uncompressed DICOM file without patient, study and view, as VinDr-CXR distributes them."""
    return dicom_file(radiograph(number))
