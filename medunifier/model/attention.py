"""The Q-Former's building blocks: attention with its keys and values, feed-forward layers, and a block of both.

Shapes: B batch, Q queries, L text tokens, T image tokens, W width, H heads, D = W / H, N places of a group's grid,
R rows of a pass.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.packing import Packing
from medunifier.model.precision import for_residual_and_products


class KeysValues(NamedTuple):
    """Attention keys and values of one layer."""

    keys: torch.Tensor  # (B, H, N, D)
    values: torch.Tensor  # (B, H, N, D)

    def take(self, rows: torch.Tensor) -> "KeysValues":
        """Return those of a selection of the batch; rows (k,)."""
        return KeysValues(self.keys[rows], self.values[rows])

    @property
    def length(self) -> int:
        """Length of the sequence, N."""
        return self.keys.shape[2]

    def then(self, other: "KeysValues") -> "KeysValues":
        """Return both, one after the other along the sequence."""
        return KeysValues(torch.cat([self.keys, other.keys], 2), torch.cat([self.values, other.values], 2))


class Memory:
    """Attention keys and values of one layer that grow token by token, without gradients.

    New ones are written into a buffer of full length. `KeysValues.then` would copy all of them for each token, which
    took longer than attention itself.

    Args:
        queries: those that are there from the start, (B, H, Q, D).
        room: number of tokens that may follow.
    """

    def __init__(self, queries: KeysValues, room: int):
        self.queries = self.length = queries.length
        self._all = KeysValues(*(F.pad(part, (0, 0, 0, room)) for part in queries))

    def then(self, words: KeysValues) -> KeysValues:
        """Append those of new tokens and return all so far.

        Raises:
            ValueError: there is no room for them.
        """
        start, self.length = self.length, self.length + words.length
        if self.length > self._all.length:
            raise ValueError(f"no room for more than {self._all.length - self.queries} words")
        for part, new in zip(self._all, words, strict=True):
            part[:, :, start : self.length] = new
        return KeysValues(*(part[:, :, : self.length] for part in self._all))

    def move(self, rows: torch.Tensor, sources: torch.Tensor) -> None:
        """Replace the tokens of `rows` by those of the rows `sources`; the queries stay."""
        for part in self._all:
            words = part[:, :, self.queries : self.length]
            words[rows] = words[sources]


class Group(NamedTuple):
    """Rows of a pass that attend to each other, in a grid (B, N)."""

    packing: Packing  # the places of the grid that are rows
    mask: torch.Tensor | None = None  # broadcast to (B, H, N, keys): True where attention is allowed
    follows: bool = False  # attends, before its own, to the keys and values of the pass's first group
    wanted: int | None = (
        None  # of the last block's output only the first so many places are needed; None: all
    )


class Attention(nn.Module):
    """The common part of self- and cross-attention: heads, and BERT's output (projection, dropout, residual, norm)."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def attend(
        self, q: torch.Tensor, keys_values: KeysValues, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the attention output (B, N, W), heads side by side, of queries (B, H, N, D)."""
        dropout = self.dropout if self.training else 0.0
        a = F.scaled_dot_product_attention(q, *keys_values, attn_mask=mask, dropout_p=dropout)
        return a.transpose(1, 2).flatten(2)

    def finish(self, x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Return the layer's output (..., W), of its input x and the attention output a, both (..., W)."""
        return self.norm(x + F.dropout(self.out(a), self.dropout, self.training))

    def split_heads(self, x: torch.Tensor, parts: int) -> list[torch.Tensor]:
        """Split (B, N, parts * W) into as many of (B, H, N, D)."""
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in x.chunk(parts, -1)]


class SelfAttention(Attention):
    """Rows of a pass attend to rows of their own group."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__(width, heads, dropout)
        self.query_key_value = nn.Linear(width, 3 * width)

    def forward(
        self,
        x: torch.Tensor,
        groups: Sequence[Group],
        earlier: KeysValues | Memory | None = None,
        last: bool = False,
    ) -> tuple[torch.Tensor, KeysValues]:
        """Attend group by group.

        Args:
            x: rows (R, W), group after group.
            groups: how the rows are grouped.
            earlier: what groups that follow attend to, instead of the first group's keys and values.
            last: leave out of each group what is not wanted of the last block's output.

        Returns:
            The layer's output, (R, W) or fewer rows, and the keys and values of the first group.
        """
        found, kept, computed = [], [], []
        rows = [group.packing.rows for group in groups]
        x, y = for_residual_and_products(x)
        products = self.query_key_value(y).split(rows)
        for group, own, product in zip(groups, x.split(rows), products, strict=True):
            q, keys, values = self.split_heads(group.packing.unpack(product), 3)
            attended = KeysValues(keys, values)
            computed.append(attended)
            if group.follows:
                attended = (earlier or computed[0]).then(attended)
            if last and group.wanted:
                a = self.attend(q[:, :, : group.wanted], attended, group.mask).flatten(0, 1)
                own = group.packing.unpack(own)[:, : group.wanted].flatten(0, 1)
            else:
                a = group.packing.pack(self.attend(q, attended, group.mask))
            found.append(a)
            kept.append(own)
        if len(groups) == 1:
            return self.finish(kept[0], found[0]), computed[0]
        return self.finish(torch.cat(kept) if last else x, torch.cat(found)), computed[0]


class CrossAttention(Attention):
    """Queries attend to the tokens of images."""

    def __init__(self, width: int, heads: int, dropout: float, vision_width: int):
        super().__init__(width, heads, dropout)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(vision_width, 2 * width)

    def forward(self, x: torch.Tensor, images: Sequence[tuple[torch.Tensor, int]]) -> torch.Tensor:
        """Attend to groups of images, without copying an image's keys and values.

        Args:
            x: queries (B, Q, W).
            images: groups (`key_value` of k images (k, T, 2 W), times). The next times * k of B attend to a group:
                image after image, then all of them again.

        Returns:
            The layer's output (B, Q, W).
        """
        x, y = for_residual_and_products(x)
        queries, parts = self.query(y).split([len(image) * times for image, times in images]), []
        for q, (image, times) in zip(queries, images, strict=True):
            q = q.unflatten(0, (times, -1)).transpose(0, 1).flatten(1, 2)  # (k, times * Q, W)
            (q,), (keys, values) = self.split_heads(q, 1), self.split_heads(image, 2)
            a = self.attend(q, KeysValues(keys, values))
            parts.append(a.unflatten(1, (times, -1)).transpose(0, 1).flatten(0, 1))  # (times * k, Q, W)
        return self.finish(x, torch.cat(parts) if len(parts) > 1 else parts[0])


class FeedForward(nn.Module):
    """BERT's two-layer perceptron with residual and LayerNorm."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map rows (R, W) to (R, W)."""
        x, y = for_residual_and_products(x)
        y = self.down(F.gelu(self.up(y)))
        return self.norm(x + F.dropout(y, self.dropout, self.training))


class Block(nn.Module):
    """Self-attention shared by queries and text; cross-attention for queries; one feed-forward for each."""

    def __init__(self, width: int, heads: int, dropout: float, vision_width: int, cross_attention: bool):
        super().__init__()
        self.attention = SelfAttention(width, heads, dropout)
        self.cross_attention = (
            CrossAttention(width, heads, dropout, vision_width) if cross_attention else None
        )
        self.feed_forward_queries = FeedForward(width, dropout)
        self.feed_forward_text = FeedForward(width, dropout)

    def forward(
        self,
        x: torch.Tensor,
        groups: Sequence[Group],
        queries: tuple[int, int] = (0, 0),
        images: Sequence[tuple[torch.Tensor | None, int]] = (),
        earlier: KeysValues | Memory | None = None,
        last: bool = False,
    ) -> tuple[torch.Tensor, KeysValues]:
        """Run the block on all rows of a pass.

        Args:
            x: rows (R, W), those of the queries before text.
            groups: how the rows are grouped.
            queries: (images, Q of each) among the rows.
            images: as in `CrossAttention.forward`; None in place of an image in a block without cross-attention.
            earlier: as in `SelfAttention.forward`.
            last: as in `SelfAttention.forward`.

        Returns:
            The block's output, (R, W) or fewer rows, and the keys and values of the first group.
        """
        x, keys_values = self.attention(x, groups, earlier, last)
        return self.finish(x, queries, images), keys_values

    def finish(
        self,
        x: torch.Tensor,
        queries: tuple[int, int],
        images: Sequence[tuple[torch.Tensor | None, int]],
    ) -> torch.Tensor:
        """Apply what follows self-attention to rows (R, W)."""
        split = queries[0] * queries[1]
        if not split:
            return self.feed_forward_text(x)
        x, text = x.split([split, len(x) - split])
        if self.cross_attention is not None:
            x = self.cross_attention(x.unflatten(0, queries), images).flatten(0, 1)
        x = self.feed_forward_queries(x)
        return torch.cat([x, self.feed_forward_text(text)]) if len(text) else x
