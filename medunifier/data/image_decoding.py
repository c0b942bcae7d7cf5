"""Decode image files (JPEG, PNG, DICOM) to grey uint8 squares of one size; the content decides, not the suffix."""

import io
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from medunifier.data.dicom_decoding import read_dicom
from medunifier.data.grey_values import Depth, bits_used, scaled
from medunifier.data.image_content import (
    DICOM_AT,
    DICOM_START,
    JPEG_START,
    PNG_START,
    TooLargeImage,
    UnreadableImage,
    check_jpeg,
    check_listed,
    check_png,
    read_content,
)
from medunifier.runtime.errors import InputError

MAX_MEGAPIXELS = 100
# Formats that Pillow reads by itself; others start programs (EPS) or are no radiographs.
_FORMATS = ("JPEG", "PNG", "TIFF", "JPEG2000", "BMP", "GIF", "PPM", "WEBP")
_ADDRESS = re.compile(r"<_io\.BytesIO object at 0x[0-9a-f]+>")  # in Pillow's messages; differs in every run
# Errors that Pillow, pydicom and its decoders raise on broken content.
_BROKEN = (
    ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip


class DecodedImage(NamedTuple):
    """Grey values, uint8 [size, size], and what was found about the file, a few words each (empty: nothing)."""

    pixels: np.ndarray
    notes: tuple[str, ...]


def decode_image(path: str | Path, size: int, aspect: str, bits: str = "used") -> np.ndarray:
    """Decode an image file to grey values, antialiased; arguments and errors as for `decode_file`.

    Returns:
        uint8 [size, size]; 0 is black.
    """
    return decode_file(path, size, aspect, bits=bits).pixels


def decode_file(
    path: str | Path,
    size: int,
    aspect: str,
    *,
    bits: str = "used",
    max_megapixels: int = MAX_MEGAPIXELS,
    sha256: str | None = None,
) -> DecodedImage:
    """Decode an image file to grey values, antialiased, with notes about the file.

    Args:
        path: a DICOM file, or a JPEG, PNG or other file that Pillow reads, under any name.
        size: height and width of the result in pixels.
        aspect: what is done with an image that is not square: `squash` (distort), `pad` (with black) or `crop`
            (keep the centre).
        bits: which range of an image of more than 8 bits becomes 0 to 255: that of the bits which are `declared` by
            its file, or of those which its pixels have `used`.
        max_megapixels: most million pixels of an image.
        sha256: of the file, as listed; None: not listed, or not to be compared.

    Raises:
        UnreadableImage: The content is broken, truncated or of an unsupported kind; TooLargeImage, WrongChecksum.
        InputError: The file cannot be opened, or a decoder plug-in is not installed.
    """
    content = read_content(path, max_megapixels)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            image, notes = _read(content, size, bits, max_megapixels)
            pixels = square(image, size, aspect)
        except Image.DecompressionBombError as error:  # Pillow's own limit, above `max_megapixels`
            raise TooLargeImage(f"more than {max_megapixels} megapixels: {error}") from error
        except _BROKEN as error:
            if "missing dependencies" in str(error):
                raise InputError(f"{path}: {error}") from error
            text = " ".join(_ADDRESS.sub("", str(error)).split())
            raise UnreadableImage(f"{type(error).__name__}: {text}") from error
    check_listed(content, sha256)
    return DecodedImage(pixels, (*notes, *_warning_notes(warned)))


def _read(content: bytes, size: int, bits: str, max_megapixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Return a grey image (mode L, or F in 0..255) of at least twice `size`, if the file has that many; and notes."""
    if content[DICOM_AT : DICOM_AT + len(DICOM_START)] == DICOM_START:
        image, depth = read_dicom(content, bits, max_megapixels)
        return image, _depth_note(depth)
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        if image.width * image.height > max_megapixels * 1_000_000:
            raise TooLargeImage(
                f"{image.width} x {image.height} pixels, more than {max_megapixels} megapixels"
            )
        if content.startswith(PNG_START):
            check_png(content)
        # JPEG can be decoded at 1/2, 1/4 or 1/8 of its size: much faster, and each pixel a proper average.
        image.draft("L", (2 * size, 2 * size))
        image.load()
        notes = check_jpeg(content) if content.startswith(JPEG_START) else ()
        image, depth = _grey(image, bits)
        return image, (*notes, *_depth_note(depth))


def grey(image: Image.Image, bits: str = "used") -> Image.Image:
    """Return an upright grey image: mode L, or F in 0..255; `bits` as for `decode_file`.

    Raises:
        ValueError: The image is floating-point, so its stored range is unknown.
    """
    return _grey(image, bits)[0]


def _grey(image: Image.Image, bits: str) -> tuple[Image.Image, Depth]:
    """Return an upright grey image as `grey`, and its bits."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, stored range 0..65535; Pillow would clip them at 255
        values = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        depth = Depth(16, bits_used(values, 16) if bits == "used" else 16)
        return scaled(values.astype(np.float32), 0, 2**depth.used - 1), depth
    if image.mode == "F":
        raise ValueError("a floating-point image has no stored range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("L"), Depth(8, 8)


def _depth_note(depth: Depth) -> tuple[str, ...]:
    if depth.used == depth.declared:
        return ()
    return (f"{depth.used} of {depth.declared} declared bits used",)


def _warning_notes(warned: list[warnings.WarningMessage]) -> tuple[str, ...]:
    """Return what decoders warned of, without the numbers that differ from image to image."""
    texts = [f"{w.category.__name__}: {' '.join(str(w.message).split())}" for w in warned]
    return tuple(dict.fromkeys(re.sub(r"\d+", "N", text)[:120] for text in texts))


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
