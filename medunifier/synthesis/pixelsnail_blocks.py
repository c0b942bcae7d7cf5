"""Building blocks of PixelSNAIL: causal convolutions, gated residual blocks, attention (Chen et al. 2018).

Shapes: B batch, H x W code map, N = H * W positions row by row, C channels, D channels per head.

Names of attributes that hold weights are keys of the saved state_dict: renaming one breaks trained priors.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.synthesis.prior_config import PriorConfig

COORDINATES = 2  # channels of `Prior.background`: row and column


class KeysValues(NamedTuple):
    """Keys and values of an attention."""

    keys: torch.Tensor  # (B, heads, N, D)
    values: torch.Tensor  # (B, heads, N, D)


class CausalConv(nn.Module):
    """Convolution over earlier positions: (B, C, H, W) -> (B, out, H, W).

    `above` covers the kernel - 1 rows above, kernel columns wide. `left` covers the kernel // 2 positions to
    the left in the same row.
    """

    def __init__(self, channels: int, out: int, kernel: int):
        super().__init__()
        self.reach = kernel // 2  # columns to either side
        self.above = nn.Conv2d(channels, out, (kernel - 1, kernel))
        self.left = nn.Conv2d(channels, out, (1, self.reach), bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve (B, C, H, W) -> (B, out, H, W)."""
        rows, n = self.above.kernel_size[0], self.reach
        above = self.above(F.pad(x, (n, n, rows, 0))[:, :, :-1])
        return above + self.left(F.pad(x, (n, 0, 0, 0))[:, :, :, :-1])


class ResidualBlock(nn.Module):
    """Gated residual block of two convolutions: x + GLU(conv(elu(conv(elu(x)))) + condition).

    Args:
        channels: C, channels of input and output.
        inner: channels between the two convolutions.
        conv: (channels, out) -> a convolution that keeps height and width.
        dropout: dropout probability after the first convolution.
        condition: channels of the condition map, 0 for none.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        conv: Callable[[int, int], nn.Module],
        dropout: float,
        condition: int = 0,
    ):
        super().__init__()
        self.dropout = dropout
        self.enter = conv(channels, inner)
        self.leave = conv(inner, 2 * channels)
        self.condition = nn.Linear(condition, 2 * channels, bias=False) if condition else None

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """Apply the block.

        Args:
            x: (B, C, H, W).
            condition: (B, H, W, condition channels), or (B, 1, 1, condition channels) for one value per image.

        Returns:
            (B, C, H, W).
        """
        y = F.dropout(F.elu(self.enter(F.elu(x))), self.dropout, self.training)
        y = self.leave(y)
        if self.condition is not None and condition is not None:
            y = y + self.condition(condition).permute(0, 3, 1, 2)
        return x + F.glu(y, 1)


class GatedLayer(nn.Module):
    """Gated residual layer per position: x + GLU(W elu(V elu(x) + U elu(beside))), on the last dimension."""

    def __init__(self, width: int, inner: int, dropout: float, beside: int = 0):
        super().__init__()
        self.dropout = dropout
        self.enter = nn.Linear(width, inner)
        self.beside = nn.Linear(beside, inner, bias=False) if beside else None
        self.leave = nn.Linear(inner, 2 * width)

    def forward(self, x: torch.Tensor, beside: torch.Tensor | None = None) -> torch.Tensor:
        """Apply the layer to x (..., width), with a second input (..., beside) where the layer has one."""
        y = self.enter(F.elu(x))
        if self.beside is not None and beside is not None:
            y = y + self.beside(F.elu(beside))
        return x + F.glu(self.leave(F.dropout(F.elu(y), self.dropout, self.training)), -1)


class Attention(nn.Module):
    """Multi-head attention without an output matrix: a `GatedLayer` mixes its output in."""

    def __init__(self, query: int, source: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(query, width)
        self.key = nn.Linear(source, width)
        self.value = nn.Linear(source, width)

    def keys_values(self, source: torch.Tensor) -> KeysValues:
        """Return keys and values of source (B, N, source width)."""
        return KeysValues(self._split(self.key(source)), self._split(self.value(source)))

    def forward(
        self, x: torch.Tensor, source: KeysValues, mask: torch.Tensor | None = None, causal: bool = False
    ) -> torch.Tensor:
        """Attend from x (B, M, query width) to `source` where `mask` is true -> (B, M, width).

        With `causal`, row i attends to entries <= i.
        """
        y = F.scaled_dot_product_attention(self._split(self.query(x)), *source, mask, is_causal=causal)
        return y.transpose(1, 2).flatten(2)  # (B, M, width)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, width) -> (B, heads, N, D)


class Block(nn.Module):
    """A PixelSNAIL block: residual blocks, then attention to earlier positions and to the report."""

    def __init__(self, c: PriorConfig):
        super().__init__()
        C, width, text = c.channels, c.channels // 2, c.text_width > 0
        condition = C if c.level == "bottom" or text else 0

        def conv(channels: int, out: int) -> CausalConv:
            return CausalConv(channels, out, c.kernel)

        residual = [
            ResidualBlock(C, c.residual_channels, conv, c.dropout, condition)
            for _ in range(c.residual_blocks)
        ]
        self.residual = cast(Sequence[ResidualBlock], nn.ModuleList(residual))
        # `asks` makes the queries' input, `tells` the keys' and values' input.
        self.asks: GatedLayer | None = None
        self.tells: GatedLayer | None = None
        self.attention: Attention | None = None
        self.text_attention: Attention | None = None
        if c.attention or text:
            self.asks = GatedLayer(C + COORDINATES, C, c.dropout)
        if c.attention:
            self.tells = GatedLayer(3 * C + COORDINATES, C, c.dropout)
            self.attention = Attention(C + COORDINATES, 3 * C + COORDINATES, width, c.heads)
        if text:
            self.text_attention = Attention(C + COORDINATES, C, width, c.heads)
        self.mix = GatedLayer(C, C, c.dropout, beside=COORDINATES + width * (c.attention + text))

    def forward(
        self,
        x: torch.Tensor,
        last: torch.Tensor,
        background: torch.Tensor,
        condition: torch.Tensor | None,
        text: KeysValues | None,
        text_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Apply the block to all positions at once.

        Args:
            x: (B, C, H, W).
            last: embedding of the code before each position, (B, N, C).
            background: coordinates of each position, (N, 2).
            condition: as for `ResidualBlock.forward`.
            text: keys and values of the report's tokens.
            text_mask: true where there is a token, (B, 1, 1, 1 + L).

        Returns:
            (B, C, H, W).
        """
        grid, before = x.shape[2:], x
        for residual in self.residual:
            x = residual(x, condition)
        x, before = (y.flatten(2).transpose(1, 2) for y in (x, before))  # (B, N, C)
        background = background.expand(len(x), -1, -1)
        source = self.keys_values(before, x, last, background) if self.attention is not None else None
        x = self.attend(x, background, source, text, text_mask, causal=True)
        return x.transpose(1, 2).unflatten(2, grid)

    def keys_values(
        self, before: torch.Tensor, x: torch.Tensor, last: torch.Tensor, background: torch.Tensor
    ) -> KeysValues:
        """Return what positions contribute to causal attention.

        Args:
            before: the block's input, (B, N, C).
            x: output of the residual blocks, (B, N, C).
            last: embedding of the code before, (B, N, C). At the start of a row no convolution covers it.
            background: coordinates, (B, N, 2).
        """
        assert self.attention is not None and self.tells is not None
        return self.attention.keys_values(self.tells(torch.cat([before, x, last, background], -1)))

    def attend(
        self,
        x: torch.Tensor,
        background: torch.Tensor,
        source: KeysValues | None,
        text: KeysValues | None,
        text_mask: torch.Tensor | None,
        causal: bool = False,
    ) -> torch.Tensor:
        """Apply the pointwise end of the block, x (B, M, C) -> (B, M, C).

        Position i may attend to its own entry in `source`: that entry depends on codes before i alone.
        """
        attended = [background]
        query = None if self.asks is None else self.asks(torch.cat([x, background], -1))
        if self.attention is not None:
            attended.append(self.attention(query, source, causal=causal))
        if self.text_attention is not None:
            attended.append(self.text_attention(query, text, text_mask))
        return self.mix(x, torch.cat(attended, -1))
