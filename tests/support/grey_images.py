"""Grey images for tests of decoding, and files of them."""

import numpy as np
from PIL import Image


def smooth(height, width):
    """A smooth image with values from 20 to 230."""
    y, x = np.mgrid[0:height, 0:width]
    wave = np.sin(x / width * 5) + np.cos(y / height * 4) + x / width
    return (20 + 210 * (wave - wave.min()) / np.ptp(wave)).astype(np.uint8)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path
