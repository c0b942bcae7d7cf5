"""Decoders of the image generator: from the latents of both levels to images (paper Eq. 22, appendix 2).

Shapes: B batch, C code width, C' width of the bottom's latents. The paper's four doublings of a 16 x 16 map give 256
pixels, not 224. A 3 x 3 convolution without padding therefore comes first in all decoders (16 -> 14, and 14 x 16 = 224),
as in the authors' code.
"""

import itertools

import torch
from torch import nn

from medunifier.model.image_layers import Enlarge, ResidualBlock, ResidualLayer, Up, norm2d


class TaperedDecoder(nn.Module):
    """The decoder of `lean`: few channels, and two linear paths to the image.

    The channels of the authors' code take 1690 GFLOP per image. Fewer channels alone reconstruct worse: the whole image
    has to pass narrow layers of high resolution. Two linear paths make up for that, at 36 GFLOP with (1536, 768, 768)
    (benchmarks/decoder.py):

    * with three numbers of channels the last two doublings are one transposed convolution of stride 4;
    * with `shortcut` each place of the 14 x 14 map also adds a patch of 32 x 32 pixels, twice its own size. It carries
      the coarse content; the doublings add detail.

    Args:
        source: channels of both levels together, C + C'.
        channels: inputs of each transposed convolution: two or more that double, and a last one for the rest of 16.
        image_channels: 1 or 3. norm: see `norm2d`. shortcut: whether the decoder has one.
    """

    def __init__(
        self, source: int, channels: tuple[int, ...], image_channels: int, norm: str, shortcut: bool
    ):
        super().__init__()
        self.enter = nn.Conv2d(source, channels[0], 3)
        self.residual = ResidualBlock(channels[0])
        self.up = nn.Sequential(*(Up(a, b, norm) for a, b in itertools.pairwise(channels)))
        self.leave = Enlarge(channels[-1], image_channels, 16 >> len(self.up))
        self.shortcut = Enlarge(channels[0], image_channels, 16, bias=False) if shortcut else None
        with torch.no_grad():  # the first images are an even mid grey, not noise of many times their contrast
            self.leave.weight.mul_(0.1)
            if self.leave.bias is not None:
                self.leave.bias.fill_(0.5)
            if self.shortcut is not None:
                self.shortcut.weight.mul_(0.1)

    def forward(self, top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
        """Decode top (B, C, 16, 16), already doubled, and bottom (B, C', 16, 16) to (B, image channels, 224, 224)."""
        x = self.residual(self.enter(torch.cat([top, bottom], 1)))
        images = self.leave(self.up(x))
        return images if self.shortcut is None else images + self.shortcut(x)


class DeconvolutionalDecoder(nn.Module):
    """The decoder of the paper (appendix 2): four deconvolutional blocks, the last of which makes the pixels.

    Args:
        source: channels of both levels together, C + C'.
        channels: inputs of the four blocks, each a transposed convolution, a ReLU and a normalisation.
        image_channels: 1 or 3. norm: see `norm2d`.
    """

    def __init__(self, source: int, channels: tuple[int, ...], image_channels: int, norm: str):
        super().__init__()
        self.enter = nn.Conv2d(source, channels[0], 3)
        blocks = [Up(a, b, norm) for a, b in itertools.pairwise((*channels, image_channels))]
        self.up = nn.Sequential(*blocks)
        with torch.no_grad():  # the first images are an even mid grey
            blocks[-1].norm.weight.fill_(0.1)
            blocks[-1].norm.bias.fill_(0.5)

    def forward(self, top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
        """Decode top (B, C, 16, 16), already doubled, and bottom (B, C', 16, 16) to (B, image channels, 224, 224)."""
        return self.up(self.enter(torch.cat([top, bottom], 1)))


class ResidualDecoder(nn.Module):
    """The decoder of the authors' code: a residual layer, three blocks, and a bare transposed convolution.

    In a block the normalisation stands before the ReLU. All weights start as PyTorch's layers do.

    Args:
        source: channels of both levels together, C + C'.
        channels: inputs of the four transposed convolutions.
        image_channels: 1 or 3. norm: see `norm2d`.
    """

    def __init__(self, source: int, channels: tuple[int, ...], image_channels: int, norm: str):
        super().__init__()
        self.enter = nn.Conv2d(source, channels[0], 3)
        self.residual = ResidualLayer(channels[0])
        self.up = nn.Sequential(
            *(
                nn.Sequential(Enlarge(a, b, 2), norm2d(norm, b), nn.ReLU())
                for a, b in itertools.pairwise(channels)
            )
        )
        self.leave = Enlarge(channels[-1], image_channels, 2)

    def forward(self, top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
        """Decode top (B, C, 16, 16), already doubled, and bottom (B, C', 16, 16) to (B, image channels, 224, 224)."""
        return self.leave(self.up(self.residual(self.enter(torch.cat([top, bottom], 1)))))


def image_decoder(
    kind: str, source: int, channels: tuple[int, ...], image_channels: int, norm: str, shortcut: bool
) -> nn.Module:
    """Return the decoder `tapered`, `deconvolutional` or `residual`; only the first has a shortcut."""
    if kind == "tapered":
        return TaperedDecoder(source, channels, image_channels, norm, shortcut)
    return {"deconvolutional": DeconvolutionalDecoder, "residual": ResidualDecoder}[kind](
        source, channels, image_channels, norm
    )


def top_decoder(kind: str, width: int, norm: str) -> nn.Module:
    """Return what doubles the top map (B, width, 8, 8) for a decoder of that kind.

    `tapered` and `deconvolutional`: the paper's one deconvolutional block. `residual`: a residual layer and a bare
    transposed convolution, as in the authors' code.
    """
    return (
        nn.Sequential(ResidualLayer(width), Enlarge(width, width, 2))
        if kind == "residual"
        else Up(width, width, norm)
    )
