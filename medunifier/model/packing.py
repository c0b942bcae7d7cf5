"""Rows without padding: operations on single tokens are computed for real tokens only."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F


class Packing(NamedTuple):
    """The real places of a padded grid (B, N); `pack` and `unpack` convert between grid and rows.

    Attention needs the grid. Everything else in a transformer works on rows, and half of a grid of reports may be
    padding. Both directions only gather by index: a deterministic scatter makes a GPU sort the indices at each call.
    """

    batch: int  # B
    length: int  # N
    # Of a grid with padding; None: all places are real.
    places: torch.Tensor | None = None  # (R,) numbers of the real places, counted row by row
    inverse: torch.Tensor | None = None  # (B * N,) the row of each place; of padding, an arbitrary row
    real: torch.Tensor | None = None  # (B * N, 1)

    @classmethod
    def of(cls, mask: torch.Tensor) -> "Packing":
        """Return the real places of a mask (B, N), row by row."""
        real = mask.flatten().bool()
        inverse = (real.cumsum(0) - 1).clamp_(min=0)
        batch, length = mask.shape
        return cls(batch, length, real.nonzero()[:, 0], inverse, real[:, None])

    @classmethod
    def whole(cls, batch: int, length: int) -> "Packing":
        """Return a grid without padding."""
        return cls(batch, length)

    @property
    def rows(self) -> int:
        """Number of real places, R."""
        return self.batch * self.length if self.places is None else len(self.places)

    def after_queries(self, queries: int) -> "Packing":
        """Return the grid (B, queries + N). Its rows: the queries of the whole batch first, then these places.

        Raises:
            ValueError: the grid has no padding mask (`whole`).
        """
        if self.places is None or self.inverse is None or self.real is None:
            raise ValueError("after_queries needs a grid made from a mask")
        length, all_queries = queries + self.length, self.batch * queries
        rows = torch.arange(self.batch, device=self.places.device)[:, None] * length
        first = (rows + torch.arange(queries, device=self.places.device)).flatten()
        rest = self.places + (self.places // self.length + 1) * queries
        numbers = torch.arange(all_queries, device=self.places.device).view(self.batch, queries)
        texts = (self.inverse + all_queries).view(self.batch, self.length)
        real = F.pad(self.real.view(self.batch, self.length), (queries, 0), value=True)
        return Packing(
            self.batch,
            length,
            torch.cat([first, rest]),
            torch.cat([numbers, texts], 1).flatten(),
            real.view(-1, 1),
        )

    def pick(self, x: torch.Tensor) -> torch.Tensor:
        """Return the real places (R,) of x (B, N), which needs no gradient."""
        return x.flatten() if self.places is None else x.flatten()[self.places]

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows (R, W) of x (B, N, W). Padding positions get the gradient 0."""
        if self.places is None:
            return x.flatten(0, 1)
        return _Pack.apply(x.flatten(0, 1), self.places, self.inverse, self.real)

    def unpack(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the grid (B, N, W) of rows (R, W).

        Padding positions hold arbitrary rows; mask them before a loss. Their gradient is discarded.
        """
        if self.places is None:
            return rows.unflatten(0, (self.batch, self.length))
        return _Unpack.apply(rows, self.places, self.inverse).unflatten(0, (self.batch, self.length))


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(inverse, real)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (grad,) = grad_outputs
        inverse, real = ctx.saved_tensors
        return grad.index_select(0, inverse).mul_(real), None, None, None


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        return rows.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad,) = grad_outputs
        (index,) = ctx.saved_tensors
        return grad.index_select(0, index), None, None
