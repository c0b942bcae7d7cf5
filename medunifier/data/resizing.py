"""Resize grey levels as Pillow does, on any device: what the processors of image encoders compute."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

_BITS = 22  # fractional bits of Pillow's weights for 8-bit images: 32 - 8 - 2


def _linear(x: float) -> float:
    return max(0.0, 1 - abs(x))


def _cubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3 <= x < 3 else 0.0


def _sinc(x: float) -> float:
    return math.sin(math.pi * x) / (math.pi * x) if x else 1.0


def _box(x: float) -> float:
    return float(-0.5 < x <= 0.5)


# Name: kernel, and the distance in pixels that it reaches; the names are those of timm and torchvision.
KERNELS: dict[str, tuple[Callable[[float], float], float]] = {
    "bilinear": (_linear, 1.0),
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
    "box": (_box, 0.5),
}


def resize_grey(levels: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Resize images of whole grey levels, antialiased, to whole grey levels.

    The result is Pillow's to the bit: weights of 22 fractional bits, along the rows first, rounded after each direction.
    PyTorch's and torchvision's own resizing differs from it by a grey level here and there. Of images that are not square
    Pillow resizes some along the columns first, which rounds otherwise; stored images are square.

    Args:
        levels: (..., H, W), values of 0 to 255; they are rounded first.
        size: height and width of the result.
        interpolation: `bilinear`, `bicubic`, `lanczos` or `box`.

    Returns:
        float32 (..., height, width), whole numbers of 0 to 255.
    """
    height, width = levels.shape[-2:]
    x = levels.double().round()  # sums of products of whole numbers below 2^53 are exact
    if width != size[1]:
        x = _rounded(x @ _weights(width, size[1], interpolation).to(x.device).T)
    if height != size[0]:
        x = _rounded(_weights(height, size[0], interpolation).to(x.device) @ x)
    return x.float()


def _rounded(sums: torch.Tensor) -> torch.Tensor:
    """Return whole grey levels of sums with `_BITS` fractional bits; halves are rounded up."""
    return torch.floor(sums / 2**_BITS + 0.5).clamp_(0, 255)


@lru_cache(maxsize=16)
def _weights(old: int, new: int, interpolation: str) -> torch.Tensor:
    """Return the whole-numbered weights, float64 [new, old], of each of `old` pixels in each of `new`."""
    kernel, reach = KERNELS[interpolation]
    scale = old / new
    stretch = max(scale, 1.0)
    shrink = 1 / stretch
    weights = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * scale
        first = max(int(centre - reach * stretch + 0.5), 0)
        last = min(int(centre + reach * stretch + 0.5), old)
        row = np.array([kernel((j - centre + 0.5) * shrink) for j in range(first, last)])
        total = sum(row)  # in Pillow's order
        weights[i, first:last] = np.trunc(row / total * 2**_BITS + np.where(row < 0, -0.5, 0.5))
    return torch.from_numpy(weights)
