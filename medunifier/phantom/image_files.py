"""JPEG and PNG files, and names of files that do not depend on pixels."""

import hashlib
import io
import uuid
from collections.abc import Iterable

import numpy as np
from PIL import Image

JPEG_QUALITY = 88


def jpeg(pixels: np.ndarray) -> bytes:
    """Return uint8 [H, W] as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    """Return uint8 [H, W] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def digest_of(key: Iterable[int]) -> str:
    """Return the SHA-256, in hexadecimal digits, of the key that seeds an image.

    A digest of the pixels would differ between machines: processors differ in a float's last bit.
    """
    return hashlib.sha256(repr(tuple(key)).encode()).hexdigest()


def name_of(digest: str) -> str:
    """Return a file name of the form used by the Kaggle data sets (a UUID), from a hexadecimal digest."""
    return str(uuid.UUID(digest[:32]))
