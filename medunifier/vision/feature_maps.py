"""What an encoder of any kind gives: a map of features over the image, and one vector for the whole of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.runtime.errors import InputError
from medunifier.vision.preprocessing import Preprocessing

Network = Any  # a network of another library, whose methods depend on its kind


class FeatureMaps(NamedTuple):
    """Features of images.

    Attributes:
        whole: class token or the model's own pooled output (B, width); None: the model has neither.
        grid: (B, width, rows, columns).
    """

    whole: torch.Tensor | None
    grid: torch.Tensor

    def tokens(self) -> torch.Tensor:
        """Return (B, 1 + rows * columns, width): the whole image first, else the mean of the grid, then row by row."""
        whole = self.grid.mean((2, 3)) if self.whole is None else self.whole
        return torch.cat([whole[:, None], self.grid.flatten(2).transpose(1, 2)], 1)


@dataclass(frozen=True)
class LoadedEncoder:
    """An image encoder of another library.

    Attributes:
        network: holds every weight.
        encode: maps the network and its input (B, channels, H, W) to feature maps; differentiable. The network is an
            argument, so that a copy can be trained.
        preprocessing: its own.
    """

    network: nn.Module
    encode: Callable[[Network, torch.Tensor], FeatureMaps]
    preprocessing: Preprocessing


def maps_of_tokens(tokens: torch.Tensor, prefix: int, has_class: bool, pixels: torch.Tensor) -> FeatureMaps:
    """Lay the tokens of a ViT out as a grid.

    Args:
        tokens: (B, prefix + rows * columns, width).
        prefix: number of tokens before those of the patches: class token first, register tokens after it.
        has_class: whether there is a class token. Register tokens hold nothing about a place and are left out.
        pixels: the input (B, channels, H, W); patches are square.

    Raises:
        InputError: the tokens do not fill a grid.
    """
    height, width = pixels.shape[-2:]
    patches = tokens.shape[1] - prefix
    rows = round(math.sqrt(max(patches, 0) * height / width))
    if rows < 1 or patches % rows or abs(rows * width - patches // rows * height) > max(height, width):
        raise InputError(
            f"vision.model: gives {tokens.shape[1]} tokens for an image of {height} x {width} pixels, {prefix} of them "
            "before the patches; the others do not fill a grid of square patches"
        )
    grid = tokens[:, prefix:].transpose(1, 2).unflatten(2, (rows, patches // rows))
    return FeatureMaps(tokens[:, 0] if has_class else None, grid)


def joined(levels: list[torch.Tensor]) -> torch.Tensor:
    """Join feature maps (B, C_i, h_i, w_i) of several levels on the finest grid: (B, sum of C_i, h, w), bilinearly."""
    finest = max((level.shape[-2:] for level in levels), key=lambda sides: sides[0] * sides[1])
    same = [
        level
        if level.shape[-2:] == finest
        else F.interpolate(level, size=finest, mode="bilinear", align_corners=False)
        for level in levels
    ]
    return torch.cat(same, 1)


def chosen_levels(strides: list[int], wanted: tuple[int, ...], name: str) -> list[int]:
    """Return the positions of the levels with the wanted strides; the deepest one if none is named.

    Raises:
        InputError: the model has no level of such a stride.
    """
    if not wanted:
        return [len(strides) - 1]
    unknown = [stride for stride in wanted if stride not in strides]
    if unknown:
        have = ", ".join(map(str, strides)) or "none, for it is no CNN"
        raise InputError(
            f"vision.levels: {name!r} has no level of stride {unknown[0]}; it has {have}. []: the deepest level alone"
        )
    # of several levels of one stride the last, which has seen most of the image
    return [len(strides) - 1 - strides[::-1].index(stride) for stride in sorted(wanted)]


def no_levels(wanted: tuple[int, ...], name: str) -> None:
    """Refuse `vision.levels` for a ViT.

    Raises:
        InputError: levels are named.
    """
    if wanted:
        raise InputError(f"vision.levels is {list(wanted)}, but {name!r} is no CNN with levels; set it to []")
