"""Sizes of known frozen encoders: width, number and arithmetic of their features, for `python -m workflow.plan`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

OWN_SIZE = 224  # pixels that each of them reads unless vision.size says otherwise


@dataclass(frozen=True)
class Vit:
    """A ViT."""

    width: int
    blocks: int
    mlp: int  # width
    patch: int  # pixels

    def tokens(self, size: int) -> int:
        """Return the tokens of an image of `size` pixels, the class token included."""
        return (size // self.patch) ** 2 + 1

    def flops(self, size: int) -> float:
        """Return the FLOP of the forward pass over one image: 2 per weight and token, and the attention."""
        tokens, width = self.tokens(size), self.width
        weights = self.blocks * (4 * width**2 + 2 * width * self.mlp) + 3 * self.patch**2 * width
        return 2 * weights * tokens + self.blocks * 4 * tokens**2 * width


@dataclass(frozen=True)
class Cnn:
    """A CNN, of which some levels are joined on the finest of them."""

    channels: Mapping[int, int]  # stride of a level -> its channels
    gflop: float  # of the forward pass up to the deepest level, over an image of OWN_SIZE
    levels: tuple[int, ...] = ()  # strides of those that are joined; (): the deepest alone

    @property
    def width(self) -> int:
        """Width of the features."""
        return sum(self.channels[level] for level in self.levels or (max(self.channels),))

    def tokens(self, size: int) -> int:
        """Return the features of an image of `size` pixels, the one of the whole image included."""
        return (-(-size // min(self.levels or (max(self.channels),)))) ** 2 + 1

    def flops(self, size: int) -> float:
        """Return the FLOP of the forward pass over one image, which grow with its area."""
        return self.gflop * 1e9 * (size / OWN_SIZE) ** 2


# By a part of the name in vision.model or vision.folder. The GFLOP of a CNN are PyTorch's count.
KNOWN: Mapping[str, Vit | Cnn] = {
    "eva_giant_patch14": Vit(1408, 40, 6144, 14),
    "vit_base_patch16": Vit(768, 12, 3072, 16),
    "tf_efficientnet_lite0": Cnn({2: 16, 4: 24, 8: 40, 16: 112, 32: 320}, 0.7277),
}


def encoder_of(vision: Mapping[str, Any]) -> Vit | Cnn | None:
    """Return the sizes of the encoder that the section `vision` of params.yaml names; None if they are not known."""
    name = vision["model"] or vision["folder"]
    known = next((sizes for part, sizes in KNOWN.items() if part in name), None)
    if isinstance(known, Vit):
        return replace(known, blocks=known.blocks - vision["skip_last_blocks"])
    return known and replace(known, levels=tuple(vision["levels"]))
