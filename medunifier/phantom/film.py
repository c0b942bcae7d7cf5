"""The last step of every image: exposure, grain, side marker, eight bits."""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medunifier.phantom.drawing import enlarge

FILM_DETAIL = 2  # the body is drawn this much coarser than the film: no shadow in it is sharper


def expose(exposure: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """Grey values about 0..1 of a body, float32 [n, n], to a film, uint8 [size, size].

    Exposure is contrast, brightness and gamma within the range that a technician tolerates; grain is
    added on the film. Now and then a lead "L" marks the patient's left.
    """
    gamma, gain, offset = rng.uniform(0.88, 1.15), rng.uniform(0.93, 1.07), rng.uniform(-0.02, 0.03)
    film = np.clip(exposure * np.float32(gain) + np.float32(offset), 0.01, 1.1) ** np.float32(gamma)
    film = enlarge(film * np.float32(255), size)
    sheet = _grain_sheet(size)
    top, left = rng.integers(0, sheet.shape[0] - size, 2)
    film = film + sheet[top : top + size, left : left + size] * (
        film * np.float32(rng.uniform(0.012, 0.02)) + 2
    )
    image = Image.fromarray(np.clip(film, 0, 255).astype(np.uint8))
    if rng.random() < 0.6:
        spot = (round(size * rng.uniform(0.87, 0.92)), round(size * rng.uniform(0.03, 0.07)))
        ImageDraw.Draw(image).text(spot, "L", fill=245, font=_font(size * 0.055))
    return np.asarray(image)


@cache
def _grain_sheet(size: int) -> np.ndarray:
    """White noise, float32 [2 * size, 2 * size], from which each film cuts its own piece."""
    return np.random.default_rng(0).standard_normal((2 * size, 2 * size), dtype=np.float32)


@cache
def _font(height: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(height)
