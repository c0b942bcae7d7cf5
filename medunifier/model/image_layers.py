"""Layers of the image generator: normalisation, residual blocks, resizing, positions, transposed convolutions.

Shapes: B batch, C channels, h x w a map.
"""

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.distributed import all_gather, world_size
from medunifier.model.precision import at_least_float32


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


def norm2d(kind: str, channels: int) -> Norm2d | BatchNorm2d:
    """Return the decoder's normalisation by name: `group` or `batch`."""
    kinds: dict[str, type[Norm2d] | type[BatchNorm2d]] = {"group": Norm2d, "batch": BatchNorm2d}
    return kinds[kind](channels)


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


class ResidualLayer(nn.Module):
    """Batch-normalised residual layer: 1 x 1, 3 x 3 and 1 x 1 convolutions around half the channels, ReLU at the end.

    The bottleneck of He et al. (2016), whom the paper cites for its adapters, as the authors' code has it.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.block = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1, bias=False),
            BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) to (B, C, h, w), nowhere below 0."""
        return F.relu(x + self.block(x))


def sinusoidal_positions(channels: int, rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """Return the fixed two-dimensional encoding (C, rows, columns) of Wang and Liu (2019), whom the paper cites.

    The first half of the channels holds sines and cosines of the row, in turn, the second half of the column, both at
    the angular frequencies 10000^(-4 i / C), i = 0 .. C / 4 - 1.

    Args:
        channels: C, a multiple of 4.
        rows: height of the map.
        columns: width of the map.
        like: a tensor with the device and the number format of the result.
    """
    frequencies = 10_000.0 ** (-4 * torch.arange(channels // 4, device=like.device) / channels)

    def line(length: int) -> torch.Tensor:
        angles = torch.arange(length, device=like.device)[:, None] * frequencies  # (length, C / 4)
        return torch.stack([angles.sin(), angles.cos()], 2).flatten(1).T  # (C / 2, length)

    row = line(rows)[:, :, None].expand(-1, -1, columns)
    column = line(columns)[:, None, :].expand(-1, rows, -1)
    return torch.cat([row, column]).to(like.dtype)


def resize(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize (B, C, h, w) to (B, C, height, width), bilinearly, as F.interpolate does; to less than half, antialiased.

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
    if old > 2 * new:  # each new value reads two old ones: some would be read by none
        size = (old, new)
        return F.interpolate(one_each[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    return F.interpolate(one_each[None], size=new, mode="linear", align_corners=False)[0]


def unit_length(x: torch.Tensor) -> torch.Tensor:
    """Scale (B, C, h, w) to length 1 over the channels at each place; under autocast in float32."""
    return F.normalize(at_least_float32(x) if torch.is_autocast_enabled(x.device.type) else x, dim=1)


class Enlarge(nn.ConvTranspose2d):
    """Transposed convolution to `times` the height and width, `times` even; its patches overlap by half.

    From 4 times on it is computed as a convolution of 2 x 2: each square of times x times pixels is a sum over the four
    patches that cover it. PyTorch's way takes up to four times as long on a CPU (`benchmarks/enlarging.py`).
    """

    def __init__(self, source: int, width: int, times: int, bias: bool = True):
        super().__init__(source, width, 2 * times, stride=times, padding=times // 2, bias=bias)

    # The output size follows from the input: this takes one argument less than its base.
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map (B, source, h, w) to (B, width, times * h, times * w)."""
        times, (h, w) = self.stride[0], x.shape[2:]
        if times < 4:
            return super().forward(x)
        # The lower right quarter of the patch of a square's upper left neighbour lies on it, and so on.
        quarters = self.weight.unflatten(3, (2, times)).unflatten(2, (2, times)).flip(2, 4)
        kernel = quarters.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)  # (width * times * times, source, 2, 2)
        squares = F.pixel_shuffle(F.conv2d(x, kernel, padding=1), times)  # (B, width, times * (h + 1), ...)
        edge = times // 2
        made = squares[:, :, edge : edge + times * h, edge : edge + times * w]
        return made if self.bias is None else made + self.bias[:, None, None].to(made.dtype)


class Up(nn.Module):
    """Deconvolutional block: transposed convolution that doubles height and width, ReLU, normalisation."""

    def __init__(self, source: int, width: int, norm: str):
        super().__init__()
        self.conv = Enlarge(source, width, 2)
        self.norm = norm2d(norm, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, source, h, w) to (B, width, 2 h, 2 w)."""
        return self.norm(F.relu(self.conv(x)))
