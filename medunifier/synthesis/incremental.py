"""Incremental forward pass of a prior: the logits of one position after the other, each computed once.

What a position needs from its causal convolutions depends on earlier positions alone (see
`medunifier.synthesis.pixelsnail`). Therefore
* the output of the kernels `above` is one matrix product for a whole row, made when the row begins;
* the output of the kernels `left` is one product over all residual blocks of the network at once;
* attention caches its keys and values, and the report and the top codes are encoded at the start.

Shapes: B images, K codes, C channels, R residual blocks in the whole network.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from medunifier.model.text import Text
from medunifier.synthesis.pixelsnail import Prior
from medunifier.synthesis.pixelsnail_blocks import Block, CausalConv, KeysValues


class Convolutions:
    """The weights of R parallel causal convolutions, as matrices."""

    def __init__(self, convolutions: Sequence[CausalConv]):
        first = convolutions[0]
        self.reach, self.rows = first.reach, first.above.kernel_size[0]
        self.channels, self.out = first.left.in_channels, first.left.out_channels
        self.number = len(convolutions)

        def matrices(name: str) -> torch.Tensor:  # (out, C, rows, columns) -> (rows * columns * C, out)
            kernels = [getattr(conv, name).weight.detach() for conv in convolutions]
            return torch.stack([kernel.permute(2, 3, 1, 0).flatten(0, 2) for kernel in kernels])

        self.above, self.left = matrices("above"), matrices("left")  # (R, ..., out)
        biases = [conv.above.bias for conv in convolutions]
        self.bias = torch.stack([bias.detach() for bias in biases if bias is not None])  # (R, out)


class PriorWeights:
    """A prior and its convolutions' weights as matrices. Later changes of the prior's convolutions do not reach it."""

    def __init__(self, prior: Prior):
        self.prior, self.size = prior, prior.grid**2
        residual = [residual for block in prior.blocks for residual in block.residual]
        self.enter = Convolutions([prior.enter])
        self.inner = Convolutions([r.enter for r in residual if isinstance(r.enter, CausalConv)])
        self.gates = Convolutions([r.leave for r in residual if isinstance(r.leave, CausalConv)])
        self.conditions = [r.condition for r in residual if r.condition is not None]


class ConvolutionState:
    """Inputs of R parallel convolutions so far, and their outputs at the next position."""

    def __init__(self, weights: Convolutions, batch: int, grid: int):
        w, new = weights, weights.bias.new_zeros
        self.weights, self.grid, self.rows_begun = weights, grid, 0
        width = grid + 2 * w.reach  # zero padding to either side
        self.past = new(w.number, batch, w.rows, width, w.channels)  # the rows above, the nearest last
        self.row = new(w.number, batch, width, w.channels)
        self.above = new(w.number, grid, batch, w.out)  # output of the kernels `above` for this row

    def start_row(self) -> None:
        """Move on to the next row; the first call begins the first row."""
        w, (number, batch, rows, _, channels) = self.weights, self.past.shape
        self.above.copy_(w.bias[:, None, None])
        if self.rows_begun:
            self.past[:, :, :-1] = self.past[:, :, 1:].clone()
            self.past[:, :, -1] = self.row
            filled = min(self.rows_begun, rows)
            window = (2 * w.reach + 1) * channels
            past = self.past[:, :, rows - filled :]
            s = past.stride()
            # (R, grid, B, filled rows, columns * C): for each position in the row, what its kernel covers
            patches = past.as_strided(
                (number, self.grid, batch, filled, window), (s[0], s[3], s[1], s[2], 1), past.storage_offset()
            )
            for i in range(number):
                above = self.above[i].view(-1, w.out)
                above.addmm_(patches[i].reshape(len(above), -1), w.above[i, -filled * window :])
        self.rows_begun += 1

    def at(self, column: int) -> torch.Tensor:
        """Return the outputs at a column of this row, (R, B, out)."""
        covered = self.row[:, :, column : column + self.weights.reach].flatten(2)
        return torch.baddbmm(self.above[:, column], covered, self.weights.left)

    def put(self, column: int, x: torch.Tensor, first: int = 0) -> None:
        """Set the inputs at a column, (n, B, C), of the convolutions from number `first` on."""
        self.row[first : first + len(x), :, column + self.weights.reach] = x


class IncrementalPrior:
    """Incremental forward pass of a prior: call `logits`, `put` the codes there, `logits`, and so on.

    Args:
        weights: the prior.
        batch: B.
        top: as for `Prior.forward`.
        text: as for `Prior.forward`.
    """

    def __init__(
        self, weights: PriorWeights, batch: int, top: torch.Tensor | None = None, text: Text | None = None
    ):
        prior = weights.prior
        self.prior, self.grid, self.position = prior, prior.grid, 0
        self.enter = ConvolutionState(weights.enter, batch, self.grid)
        self.inner = ConvolutionState(weights.inner, batch, self.grid)
        self.gates = ConvolutionState(weights.gates, batch, self.grid)
        self.background = prior.background().unsqueeze(1).expand(-1, batch, -1).unsqueeze(2)  # (N, B, 1, 2)
        self.last = self.enter.row.new_zeros(batch, 1, prior.config.channels)  # embedding of the code before
        self.text, self.text_mask = prior.encode_text(text, batch)
        self.cache = [
            self._empty_cache(block.attention.heads, batch) if block.attention else None
            for block in prior.blocks
        ]
        condition = prior.condition(top, text)
        self.condition = None
        if condition is not None:  # (R, 8, 8, B, 2 C), or (R, 1, 1, B, 2 C)
            maps = [linear(condition).permute(1, 2, 0, 3) for linear in weights.conditions]
            self.condition = torch.stack(maps)

    def _empty_cache(self, heads: int, batch: int) -> KeysValues:
        c = self.prior.config
        shape = (batch, heads, self.grid**2, c.channels // 2 // heads)
        return KeysValues(self.enter.row.new_zeros(shape), self.enter.row.new_zeros(shape))

    def logits(self) -> torch.Tensor:
        """Return the logits (B, K) of the next position."""
        row, column = divmod(self.position, self.grid)
        if column == 0:
            self._start_row(row)
        x = self.enter.at(column)[0] + self.prior.positions[self.position]  # (B, C)
        inner = self.inner.at(column)  # (R, B, residual channels)
        branches = F.glu(self.gates.at(column), -1)  # (R, B, C)
        self.gates.put(column, F.elu(inner))
        background, number = self.background[self.position], self.prior.config.residual_blocks
        for b, block in enumerate(self.prior.blocks):
            first = b * number
            # the block's input, and the sum after each of its residual blocks: (1 + number, B, C)
            sums = torch.cat([x[None], branches[first : first + number]]).cumsum(0)
            self.inner.put(column, F.elu(sums[:-1]), first)
            x = self._attend(b, block, sums[0, :, None], sums[-1, :, None], background)
        return self.prior.leave(F.elu(x))

    def put(self, codes: torch.Tensor) -> None:
        """Set the codes (B,) of the position whose logits came last."""
        embedded = self.prior.embedding(codes)
        self.enter.put(self.position % self.grid, embedded[None])
        self.last = embedded[:, None]
        self.position += 1

    def _attend(
        self, b: int, block: Block, before: torch.Tensor, x: torch.Tensor, background: torch.Tensor
    ) -> torch.Tensor:
        """Apply the pointwise end of block b to its input and residual output (B, 1, C) -> (B, C)."""
        source, cache = None, self.cache[b]
        if cache is not None:
            n = self.position + 1
            for past, new in zip(cache, block.keys_values(before, x, self.last, background), strict=True):
                past[:, :, n - 1 : n] = new
            source = KeysValues(*(past[:, :, :n] for past in cache))
        return block.attend(x, background, source, self.text[b], self.text_mask)[:, 0]

    def _start_row(self, row: int) -> None:
        for rows in (self.enter, self.inner, self.gates):
            rows.start_row()
        if self.condition is not None:
            scale = self.grid // self.condition.shape[1]
            self.gates.above.unflatten(1, (-1, scale)).add_(self.condition[:, row // scale].unsqueeze(2))
