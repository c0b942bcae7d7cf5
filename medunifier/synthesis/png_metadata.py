"""Grey PNGs with metadata of their origin in text fields."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import atomic_path

MODEL_NAME = "MedUnifier"  # the field `model`


def write_png(path: str | Path, pixels: np.ndarray, fields: Mapping[str, str]) -> None:
    """Write an image, uint8 [H, W], atomically, with text fields (UTF-8, PNG's iTXt chunks)."""
    info = PngInfo()
    for key, text in fields.items():
        info.add_itxt(key, text)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info)


def read_png(path: str | Path) -> tuple[np.ndarray, dict[str, str]]:
    """Return an image, uint8 [H, W], and its text fields.

    Raises:
        InputError: if the file is missing or no 8-bit grey PNG.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            assert isinstance(image, PngImageFile)
            image.load()
            fields = {key: str(text) for key, text in image.text.items()}
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: not a readable PNG ({error})") from error
    if mode != "L":  # the values of a palette image (P) are indices, not grey values
        raise InputError(f"{path}: expected an image of 8-bit grey (L), found {mode}")
    return pixels, fields
