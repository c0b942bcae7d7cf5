"""The last step of every image: exposure, grain, side marker, 8 bits."""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medunifier.phantom.shapes import enlarge

BODY_COARSENESS = 2  # pixels of the image for a pixel of the body maps, which hold no sharper detail


def expose(exposure: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """Convert grey values of about 0..1, float32 [n, n], to an image, uint8 [size, size].

    Draws contrast, brightness and gamma within the range of usual exposures, adds grain at full resolution, and in
    60 % of the images a lead marker "L" on the patient's left.
    """
    gamma, gain, offset = rng.uniform(0.88, 1.15), rng.uniform(0.93, 1.07), rng.uniform(-0.02, 0.03)
    grey = np.clip(exposure * np.float32(gain) + np.float32(offset), 0.01, 1.1) ** np.float32(gamma)
    grey = enlarge(grey * np.float32(255), size)
    noise = _noise(size)
    top, left = rng.integers(0, noise.shape[0] - size, 2)
    grey = grey + noise[top : top + size, left : left + size] * (
        grey * np.float32(rng.uniform(0.012, 0.02)) + 2
    )
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    if rng.random() < 0.6:
        spot = (round(size * rng.uniform(0.87, 0.92)), round(size * rng.uniform(0.03, 0.07)))
        ImageDraw.Draw(image).text(spot, "L", fill=245, font=_font(size * 0.055))
    return np.asarray(image)


@cache
def _noise(size: int) -> np.ndarray:
    """Return white noise, float32 [2 * size, 2 * size], of which each image takes a random crop."""
    return np.random.default_rng(0).standard_normal((2 * size, 2 * size), dtype=np.float32)


@cache
def _font(height: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's default font, `height` pixels high."""
    return ImageFont.load_default(height)
