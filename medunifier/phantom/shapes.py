"""Rasterize curves to soft masks, and make smooth noise, on a square pixel grid.

Shapes have coordinates in the *body frame*: x from 0 (patient's right, left edge of the image) to 1, y from 0 (top)
to 1. A `Frame` maps them to pixels. Masks are float32 [size, size] in 0..1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

FINER = 2  # shapes are rasterized with so many times the resolution of the mask
Points = np.ndarray  # float [n, 2], columns x, y in the body frame


@dataclass(frozen=True)
class Frame:
    """Position of the body in the image.

    Attributes:
        size: height and width of the pixel grid.
        rotation: in radians.
        scale: magnification.
        shift: x and y, as fractions of the side.
    """

    size: int
    rotation: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    def to_pixels(self, points: Points) -> np.ndarray:
        """Map body coordinates [n, 2] to pixel coordinates [n, 2]."""
        cos, sin = np.cos(self.rotation) * self.scale, np.sin(self.rotation) * self.scale
        centred = np.asarray(points, dtype=np.float64) - 0.5
        turned = centred @ np.array([[cos, sin], [-sin, cos]])
        return (turned + 0.5 + np.asarray(self.shift)) * self.size

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the body coordinates (x, y) of every pixel centre, each float32 [size, size]."""
        centres = (np.arange(self.size, dtype=np.float32) + 0.5) / self.size - 0.5
        x = centres[None, :] - np.float32(self.shift[0])
        y = centres[:, None] - np.float32(self.shift[1])
        cos = np.float32(np.cos(self.rotation) / self.scale)
        sin = np.float32(np.sin(self.rotation) / self.scale)
        return x * cos + y * sin + np.float32(0.5), y * cos - x * sin + np.float32(0.5)

    def length(self, fraction: float) -> float:
        """Return a length in the body frame in pixels."""
        return fraction * self.scale * self.size


def smooth_outline(controls: ArrayLike, steps: int = 8) -> Points:
    """Return a closed Catmull-Rom curve through `controls` [n, 2]; a repeated point makes a sharp corner."""
    p1 = np.asarray(controls, dtype=np.float64)
    p0, p2, p3 = (p1.take(np.arange(step, step + len(p1)), axis=0, mode="wrap") for step in (-1, 1, 2))
    t = (np.arange(steps) / steps)[:, None, None]
    curve = 0.5 * (
        2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - 3 * p2 + p3 - p0) * t**3
    )
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def smooth_path(start: ArrayLike, bend: ArrayLike, end: ArrayLike, steps: int = 12) -> Points:
    """Return quadratic Bezier curves [steps, ..., 2] from `start` to `end` with control `bend` (each [..., 2])."""
    first, control, last = (np.asarray(point, dtype=np.float64) for point in (start, bend, end))
    t = (np.arange(steps) / (steps - 1)).reshape(-1, *[1] * last.ndim)
    return (1 - t) ** 2 * first + 2 * t * (1 - t) * control + t**2 * last


def fill(frame: Frame, outlines: list[Points], soft: float) -> np.ndarray:
    """Return a mask of filled outlines; the edge is `soft` wide (a fraction of the side)."""
    image, pen = _canvas(frame)
    for outline in outlines:
        pen.polygon((frame.to_pixels(outline) * FINER).ravel().tolist(), fill=255)
    return _soften(image, frame, soft)


def strokes(frame: Frame, lines: list[tuple[Points, float, float]], soft: float) -> np.ndarray:
    """Return a mask of lines (points, width, strength 0..1); later lines cover earlier ones."""
    image, pen = _canvas(frame)
    # All points are mapped at once: there are a few hundred short lines.
    pixels = (frame.to_pixels(np.concatenate([line[0] for line in lines])) * FINER).ravel().tolist()
    start = 0
    for points, width, strength in lines:
        end = start + 2 * len(points)
        thickness = max(1, round(frame.length(width) * FINER))
        pen.line(pixels[start:end], fill=round(255 * strength), width=thickness)
        start = end
    return _soften(image, frame, soft)


def _canvas(frame: Frame) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a canvas with FINER times the resolution, because Pillow does not antialias shapes."""
    image = Image.new("L", (frame.size * FINER, frame.size * FINER))
    return image, ImageDraw.Draw(image)


def _soften(image: Image.Image, frame: Frame, soft: float) -> np.ndarray:
    """Apply a Gaussian blur by repeated [1 2 1] / 4 kernels, each of variance 1/2 pixel.

    Wide blurs are computed on a reduced image, ten times faster and without a visible difference.
    """
    radius, shrink = frame.length(soft), 1
    while radius / shrink > 1.2:
        shrink *= 2
    values = np.asarray(image.reduce(FINER * shrink), dtype=np.float32) * np.float32(1 / 255)
    for _ in range(round(2 * (radius / shrink) ** 2)):
        for _ in range(2):
            values = values.T.copy()
            values[1:-1] = values[1:-1] * np.float32(0.5) + (values[:-2] + values[2:]) * np.float32(0.25)
    return values if shrink == 1 else enlarge(values, frame.size, Image.Resampling.BILINEAR)


def enlarge(values: np.ndarray, size: int, method: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """Resample a float32 map to [size, size]."""
    return np.asarray(Image.fromarray(values).resize((size, size), method))


def cloud(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Return smooth noise with about `cells` blobs along a side, float32 [size, size], mean 0, about -1..1."""
    return enlarge(np.float32(0.6) * rng.standard_normal((cells, cells), dtype=np.float32), size)


def bump(
    x: np.ndarray, y: np.ndarray, centre: tuple[float, float], radius: tuple[float, float]
) -> np.ndarray:
    """Return a Gaussian of height 1 on the grid of `Frame.grid`, float32."""
    across = (x - np.float32(centre[0])) * np.float32(1 / radius[0])
    down = (y - np.float32(centre[1])) * np.float32(1 / radius[1])
    return np.exp(-(across * across + down * down))
