"""Data augmentation that keeps a report true of its radiograph. No mirroring: reports tell left from right."""

import math

import torch
import torch.nn.functional as F

from medunifier.model.distributed import own_rows, world_size


def augment(
    pixels: torch.Tensor,
    generator: torch.Generator,
    *,
    rotation: float = 0.0,
    shift: float = 0.0,
    zoom: float = 0.0,
    brightness: float = 0.0,
    contrast: float = 0.0,
) -> torch.Tensor:
    """Rotate, shift, zoom and change brightness and contrast, each image by its own uniform random amounts.

    Args:
        pixels: images (B, C, H, W) in [0, 1]. What comes in from outside the image is black.
        generator: on the CPU, in the same state on all processes. Amounts are drawn for the global batch, and each
            process takes its own: their number does not change any image.
        rotation: largest angle in degrees, either way, about the centre.
        shift: largest shift, either way, in each direction, as a share of width or height.
        zoom: the size is multiplied by 1 - zoom to 1 + zoom.
        brightness: added, -brightness to brightness.
        contrast: distances from the image's mean are multiplied by 1 - contrast to 1 + contrast.

    Returns:
        Images (B, C, H, W) in [0, 1].
    """
    own = own_rows(len(pixels))
    draws = torch.rand((len(pixels) * world_size(), 6), generator=generator)[own].to(pixels) * 2 - 1
    turn, right, down, size, bright, spread = draws.T
    angle, scale = math.radians(rotation) * turn, 1 + zoom * size
    height, width = pixels.shape[-2:]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    # source of each pixel of the result, in coordinates of -1 to 1: twice a share of the width or height
    rows = (
        torch.stack([cos, sin * height / width, -2 * shift * right], 1),
        torch.stack([-sin * width / height, cos, -2 * shift * down], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    mean = moved.mean((1, 2, 3), keepdim=True)
    bright, spread = (
        (limit * x)[:, None, None, None] for limit, x in ((brightness, bright), (contrast, spread))
    )
    return ((moved - mean) * (1 + spread) + mean + bright).clamp(0, 1)
