"""Rows without padding: what is computed token by token is computed for real tokens only."""

from typing import NamedTuple

import torch


class Packing(NamedTuple):
    """Which places of a padded grid (B, N) are real; `pack` and `unpack` go between the two layouts.

    Attention needs the grid; everything else in a transformer works on rows, and half of a grid of reports
    may be padding.
    """

    index: torch.Tensor  # (R,) numbers of the real places, counted row by row
    batch: int  # B
    length: int  # N

    @classmethod
    def of(cls, mask: torch.Tensor) -> "Packing":
        """The real places of a mask (B, N), row by row."""
        return cls(mask.flatten().nonzero()[:, 0], *mask.shape)

    def behind(self, queries: int) -> "Packing":
        """The grid (B, queries + N): the queries of all rows first, then these places."""
        length = queries + self.length
        rows = torch.arange(self.batch, device=self.index.device)[:, None] * length
        first = (rows + torch.arange(queries, device=self.index.device)).flatten()
        rest = self.index + (self.index // self.length + 1) * queries
        return Packing(torch.cat([first, rest]), self.batch, length)

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, W) -> (R, W)."""
        return _Pack.apply(x.flatten(0, 1), self.index)

    def unpack(self, rows: torch.Tensor) -> torch.Tensor:
        """(R, W) -> (B, N, W), zero where there is padding."""
        return _Unpack.apply(rows, self.index, self.batch * self.length).unflatten(
            0, (self.batch, self.length)
        )


# No place comes twice, so copying is enough in both directions; autograd's own rules add, row after row.
class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.places = len(x)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.places, grad.shape[1]).index_copy_(0, index, grad), None


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: torch.Tensor, index: torch.Tensor, places: int) -> torch.Tensor:
        ctx.save_for_backward(index)
        return rows.new_zeros(places, rows.shape[1]).index_copy_(0, index, rows)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return grad.index_select(0, index), None, None
