"""Resizing of grey levels equals Pillow's to the bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from medunifier.data.resizing import resize_grey

FILTERS = {
    name: getattr(Image.Resampling, name.upper()) for name in ("bilinear", "bicubic", "lanczos", "box")
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((224, 224), (518, 518)),
        ((224, 224), (64, 64)),
        ((37, 53), (53, 37)),
        ((64, 64), (96, 64)),
        ((90, 50), (30, 50)),
    ],
)
def test_it_is_pillow_s(name, old, new):
    images = np.random.default_rng(0).integers(0, 256, (2, *old)).astype(np.uint8)
    images[1] = np.where(images[1] > 127, 255, 0)  # overshoot is cut at both ends
    expected = np.stack([Image.fromarray(image).resize(new[::-1], FILTERS[name]) for image in images])
    found = resize_grey(torch.from_numpy(images), new, name)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), expected)


def test_values_in_0_to_1_times_255_are_the_grey_levels_again():
    images = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    again = resize_grey(images.float() / 255 * 255, (20, 20), "bicubic")
    assert torch.equal(again, resize_grey(images, (20, 20), "bicubic"))
