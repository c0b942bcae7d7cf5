"""Augmented images: against torchvision's own affine transformation, and alike on any number of processes."""

import math

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine

from medunifier.pretraining import augmentation
from medunifier.pretraining.augmentation import augment

LIMITS = {"rotation": 20.0, "shift": 0.2, "zoom": 0.3, "brightness": 0.1, "contrast": 0.2}


def random_batch(count=3, channels=1, height=24, width=24):
    """Noise that changes slowly from pixel to pixel, so that rounding of positions does not matter."""
    coarse = torch.rand((count, channels, 4, 4), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def seeded():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("shape", [(24, 24), (24, 64)])
def test_moves_as_torchvision_does(shape):
    images = random_batch(height=shape[0], width=shape[1])
    found = augment(images, seeded(), rotation=20.0, shift=0.2, zoom=0.3)
    draws = torch.rand((3, 6), generator=seeded()) * 2 - 1
    for source, result, (turn, right, down, size, *_) in zip(images, found, draws.tolist(), strict=True):
        # torchvision turns and zooms about the centre, then moves, in pixels; ours moves first
        angle, scale = 20.0 * turn, 1 + 0.3 * size
        x, y = 0.2 * right * shape[1], 0.2 * down * shape[0]
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        moved = [scale * (cos * x - sin * y), scale * (sin * x + cos * y)]
        expected = affine(source, angle, moved, scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
        torch.testing.assert_close(result, expected, atol=2e-4, rtol=0)
        assert (result - source).abs().mean() > 0.05


def test_without_limits_nothing_changes():
    images = random_batch(channels=3)
    torch.testing.assert_close(augment(images, seeded()), images, atol=1e-6, rtol=0)


def test_brightness_and_contrast_by_hand():
    images = random_batch() * 0.2 + 0.4  # far from black and white
    found = augment(images, seeded(), brightness=0.1, contrast=0.5)
    bright, spread = (torch.rand((3, 6), generator=seeded()) * 2 - 1).T[4:]
    for source, result, b, s in zip(images, found, bright, spread, strict=True):
        expected = (source - source.mean()) * (1 + 0.5 * s) + source.mean() + 0.1 * b
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    assert augment(images, seeded(), brightness=1.0).max() <= 1
    assert augment(images, seeded(), brightness=1.0).min() >= 0


def test_left_stays_left():
    left = torch.zeros(64, 1, 24, 24)
    left[..., :8] = 1
    moved = augment(left, seeded(), **{**LIMITS, "brightness": 0.0})
    assert (moved[..., :12].mean((1, 2, 3)) > moved[..., 12:].mean((1, 2, 3))).all()


def test_the_number_of_processes_changes_no_image(monkeypatch):
    images = random_batch(count=6)
    whole = augment(images, seeded(), **LIMITS)
    monkeypatch.setattr(augmentation, "world_size", lambda: 3)
    for rank in range(3):
        own = slice(2 * rank, 2 * rank + 2)
        monkeypatch.setattr(augmentation, "own_rows", lambda n, own=own: own)
        torch.testing.assert_close(augment(images[own], seeded(), **LIMITS), whole[own])
