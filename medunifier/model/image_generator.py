"""Text-grounded image generation: latent adapters, two-level quantiser, decoder (paper section 3.4, appendix 1-2).

Shapes: B batch, C code width, C' width of the bottom's latents. The top level is an 8 x 8 map of the 32 query outputs.
The bottom level is a 16 x 16 map of the patch tokens (256 of ViT-g), each joined with the report's [CLS].
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.distributed import all_gather, world_size
from medunifier.model.quantizer import Quantized, Quantizer

TOP_GRID = 8
BOTTOM_GRID = 16


class Generated(NamedTuple):
    """Reconstructions and the quantised latents that they are decoded from."""

    images: torch.Tensor  # (B, image channels, 224, 224), unclamped
    top: Quantized  # (B, C, 8, 8)
    bottom: Quantized  # (B, C', 16, 16)


class Norm2d(nn.GroupNorm):
    """GroupNorm with at most 8 groups, of 3 channels or more unless there are fewer in all.

    It replaces the paper's BatchNorm, which `decoder_norm: batch` selects. It is the same in training and evaluation,
    for any batch size, and for any split of a batch over processes. A group of one channel would remove the mean of
    each channel, and with it the brightness of the image.
    """

    def __init__(self, channels: int):
        super().__init__(
            next((g for g in (8, 4, 2) if channels % g == 0 and channels // g >= 3), 1), channels
        )


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm with the statistics of the batch over all processes, each of which holds an equal share.

    PyTorch's SyncBatchNorm does the same, but on GPUs only.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, h, w)."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        x = input
        running_mean, running_var, batches = self.running_mean, self.running_var, self.num_batches_tracked
        assert running_mean is not None and running_var is not None and batches is not None
        assert self.momentum is not None  # as nn.BatchNorm2d's default has it
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision is too coarse for sums
        own = torch.stack(torch.var_mean(wide, (0, 2, 3), correction=0))  # variance, mean (2, C)
        variances, means = all_gather(own[None]).unbind(1)  # (processes, C) each
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        with torch.no_grad():
            n = x.numel() // x.shape[1] * world_size()
            running_mean.lerp_(mean, self.momentum)
            running_var.lerp_(variance * n / (n - 1), self.momentum)
            batches.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


def norm2d(kind: str, channels: int) -> nn.Module:
    """Return the decoder's normalisation by name: `group` or `batch`."""
    return {"group": Norm2d, "batch": BatchNorm2d}[kind](channels)


class ResidualBlock(nn.Module):
    """Two convolutions around a bottleneck (as VQ-VAE-2's)."""

    def __init__(self, channels: int):
        super().__init__()
        inner = max(channels // 4, 8)
        self.conv = nn.Conv2d(channels, inner, 3, padding=1)
        self.mix = nn.Conv2d(inner, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        return x + self.mix(F.relu(self.conv(F.relu(x))))


class LatentAdapter(nn.Module):
    """Map tokens to latents: non-linear map, learnt spatial position, residual blocks (appendix Fig. 1).

    Args:
        source: token width. width: C. tokens: (rows, columns) in which the tokens are laid out.
        grid: height and width of the map; the tokens' map is resized to it.
        ending: `unit_length` at each place bounds the quantiser's terms by 4 / C, so that they cannot outweigh the
            squared error of the images, a few hundredths at the start; `rectified`: a ReLU (the authors' code).
        blocks: number of residual blocks, each with weights of its own.
    """

    def __init__(self, source: int, width: int, tokens: tuple[int, int], grid: int, ending: str, blocks: int):
        super().__init__()
        self.tokens, self.grid = tokens, grid
        endings: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "unit_length": unit_length,
            "rectified": F.relu,
        }
        self.ending = endings[ending]
        self.map = nn.Sequential(nn.Linear(source, width), nn.GELU(), nn.Linear(width, width))
        self.position = nn.Parameter(torch.zeros(1, width, grid, grid))
        self.residual = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, rows * columns, source) to latents z_e (B, C, grid, grid)."""
        x = self.map(tokens).transpose(1, 2).unflatten(2, self.tokens)  # (B, C, rows, columns)
        return self.ending(self.residual(resize(x, self.grid, self.grid) + self.position))


def resize(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize (B, C, h, w) to (B, C, height, width), bilinearly, as F.interpolate does.

    By matrix products: F.interpolate sums its gradient in no fixed order on a GPU.
    """
    h, w = x.shape[2:]
    if w != width:
        x = x @ _weights(w, width, x)
    if h != height:
        x = _weights(h, height, x).T @ x
    return x


def _weights(old: int, new: int, like: torch.Tensor) -> torch.Tensor:
    """Return the weights (old, new) of each of `old` values along a line in each of `new`."""
    one_each = torch.eye(old, device=like.device, dtype=like.dtype)
    return F.interpolate(one_each[None], size=new, mode="linear", align_corners=False)[0]


def unit_length(x: torch.Tensor) -> torch.Tensor:
    """Scale (B, C, h, w) to length 1 over the channels at each place."""
    return F.normalize(x, dim=1)


class Enlarge(nn.ConvTranspose2d):
    """Transposed convolution to `times` the height and width, `times` even; its patches overlap by half.

    From 8 times on, one matrix product computes all patches, and their quarters are added in place. The shortcut (16
    times, to three channels) took 29 ms per step of 128 images in the libraries' way on an H100, and takes 6 ms so. At
    4 times both take the same time.
    """

    def __init__(self, source: int, width: int, times: int, bias: bool = True):
        super().__init__(source, width, 2 * times, stride=times, padding=times // 2, bias=bias)

    # The output size follows from the input: this takes one argument less than its base.
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map (B, source, h, w) to (B, width, times * h, times * w)."""
        times, (h, w) = self.stride[0], x.shape[2:]
        if times < 8:
            return super().forward(x)
        patches = self.weight.flatten(1).T @ x.flatten(2)  # (B, width * 2 times * 2 times, h * w)
        patches = patches.view(len(x), -1, 2, times, 2, times, h, w)
        # The patch of place (i, j) covers the squares (i, j) to (i + 1, j + 1), each of times x times pixels.
        upper, upper_right, lower, lower_right = (
            F.pad(patches[:, :, down, :, right], (right, 1 - right, down, 1 - down))
            for down in (0, 1)
            for right in (0, 1)
        )
        squares = upper + upper_right + lower + lower_right  # (B, width, times, times, h + 1, w + 1)
        whole = squares.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
        edge = times // 2
        made = whole[:, :, edge : edge + times * h, edge : edge + times * w]
        return made if self.bias is None else made + self.bias[:, None, None]


class Up(nn.Module):
    """Deconvolutional block: transposed convolution that doubles height and width, ReLU, normalisation."""

    def __init__(self, source: int, width: int, norm: str):
        super().__init__()
        self.conv = Enlarge(source, width, 2)
        self.norm = norm2d(norm, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, source, h, w) to (B, width, 2 h, 2 w)."""
        return self.norm(F.relu(self.conv(x)))


class ImageDecoder(nn.Module):
    """Decode the latents of both levels to an image (D of Eq. 22).

    Four doublings of 16 give 256, not 224. A 3 x 3 convolution without padding therefore comes first (16 -> 14, and
    14 x 16 = 224), as in the authors' code. Their channels (2304, 4608, 4608, 2304) take 1690 GFLOP per image. Fewer
    channels alone reconstruct worse: the whole image has to pass narrow layers of high resolution. Two linear paths
    make up for that, at 36 GFLOP with (1536, 768, 768) (benchmarks/decoder.py):

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


class ImageGenerator(nn.Module):
    """Text-grounded image generation, TIG (Eq. 18-22).

    Args:
        query_width: width of the query outputs and of the text [CLS], W.
        vision_width: width of the image features. patches: number of patch tokens, a square; their map is resized to
            16 x 16.
        queries: number of query tokens, laid out in 4 rows.
        code_width, codebook_size: C and codes, at each level. codebook_start: see `Quantizer`.
        adapter, adapter_blocks: see `LatentAdapter`.
        bottom_latents: how the bottom's latents take in the doubled top's: `joined` by a 1 x 1 convolution into C
            channels; `concatenated` to 2 C, which is then the width of the bottom's codes (the authors' code).
        decoder_channels, image_channels, norm, decoder_shortcut: see `ImageDecoder`.

    Raises:
        ValueError: `queries` is no multiple of 4, or `patches` no square.
    """

    def __init__(
        self,
        *,
        query_width: int,
        vision_width: int,
        patches: int,
        queries: int,
        code_width: int,
        codebook_size: int,
        decoder_channels: tuple[int, ...],
        image_channels: int,
        norm: str = "group",
        decoder_shortcut: bool = True,
        adapter: str = "unit_length",
        adapter_blocks: int = 1,
        bottom_latents: str = "joined",
        codebook_start: str = "data",
    ):
        super().__init__()
        if queries % 4:
            raise ValueError(
                f"model.queries ({queries}) must be a multiple of 4: they are laid out in 4 rows"
            )
        normed, joined = adapter == "unit_length", {"joined": True, "concatenated": False}[bottom_latents]
        bottom_width = code_width if joined else 2 * code_width
        # Factors from unit length to unit variance, for the decoders.
        self.top_gain, self.bottom_gain = (code_width**0.5, bottom_width**0.5) if normed else (1.0, 1.0)
        self.top_adapter = LatentAdapter(
            query_width, code_width, (4, queries // 4), TOP_GRID, adapter, adapter_blocks
        )
        side = math.isqrt(patches)
        if side**2 != patches:
            raise ValueError(f"{patches} patch tokens are no square")
        self.bottom_adapter = LatentAdapter(
            vision_width + query_width, code_width, (side, side), BOTTOM_GRID, adapter, adapter_blocks
        )
        self.top_quantizer = Quantizer(codebook_size, code_width, start=codebook_start)
        self.top_decoder = Up(code_width, code_width, norm)  # 8 -> 16
        self.join = nn.Conv2d(2 * code_width, code_width, 1) if joined else nn.Identity()
        self.normalise = unit_length if normed else nn.Identity()
        self.bottom_quantizer = Quantizer(codebook_size, bottom_width, start=codebook_start)
        self.decoder = ImageDecoder(
            code_width + bottom_width, decoder_channels, image_channels, norm, decoder_shortcut
        )

    def forward(self, queries: torch.Tensor, patches: torch.Tensor, text: torch.Tensor) -> Generated:
        """Reconstruct images from query outputs (B, Q, W), patch tokens (B, patches, vision width), [CLS] (B, W)."""
        top, bottom, up = self.quantize(queries, patches, text)
        return Generated(self.decoder(up, bottom.latents * self.bottom_gain), top, bottom)

    def quantize(
        self, queries: torch.Tensor, patches: torch.Tensor, text: torch.Tensor
    ) -> tuple[Quantized, Quantized, torch.Tensor]:
        """Quantise both levels; the bottom's latents take in the doubled top's before lookup (Eq. 21).

        Returns:
            Top, bottom, and the doubled top latents (B, C, 16, 16).
        """
        top = self.top_quantizer(self.top_adapter(queries))
        up = self.top_decoder(top.latents * self.top_gain)
        text = text[:, None].expand(-1, patches.shape[1], -1).to(patches.dtype)
        local = self.bottom_adapter(torch.cat([patches, text], 2))
        bottom = self.bottom_quantizer(self.normalise(self.join(torch.cat([up, local], 1))))
        return top, bottom, up

    def decode(self, top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
        """Decode codes (B, 8, 8) and (B, 16, 16) to images (B, image channels, 224, 224) in [0, 1]."""
        up = self.top_decoder(self.top_quantizer.lookup(top) * self.top_gain)
        return self.decoder(up, self.bottom_quantizer.lookup(bottom) * self.bottom_gain).clamp(0, 1)
