"""Grey values of more than 8 bits: how many bits they use, and how they become 0 to 255."""

from typing import NamedTuple

import numpy as np
from PIL import Image

LEAST_BITS = 8  # an image that uses fewer is dark: its range is not stretched further


class Depth(NamedTuple):
    """Bits of an image's grey values: `declared` by its file, and `used` for scaling."""

    declared: int
    used: int


def bits_used(values: np.ndarray, declared: int) -> int:
    """Return the fewest bits, at least 8 and at most `declared`, that hold all values; one is the sign of signed ones.

    Many radiographs of 10 or 12 bits are stored in 16 (PadChest, Bustos et al. 2020): by the declared range they
    would come out black.
    """
    low, high = int(values.min()), int(values.max())
    needed = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0)
    needed += int(np.issubdtype(values.dtype, np.signedinteger))
    return min(max(needed, LEAST_BITS), declared)


def scaled(values: np.ndarray, low: float, high: float) -> Image.Image:
    """Map `low` to 0 and `high` to 255 (mode F); `low` above `high` inverts.

    8-bit values with the full range stay as they are (mode L): a DICOM file gives the same image as its PNG copy.
    """
    if values.dtype == np.uint8 and {low, high} == {0, 255}:
        return Image.fromarray(values if low == 0 else 255 - values)
    return Image.fromarray(np.clip((values - low) * (255 / (high - low)), 0, 255).astype(np.float32))
