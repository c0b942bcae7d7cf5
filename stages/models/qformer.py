"""The Q-Former: one BERT-shaped transformer over [queries ; text] that reads an image by cross-attention.

Paper section 3.2-3.3 and Fig. 2. Its three attention masks are not built as masks here. Each pass
computes only the rows and keys that its mask leaves visible:

=====================  =================================  ==========================================
mask (Fig. 2)          rows computed                      keys seen
=====================  =================================  ==========================================
uni-modal (ITC)        `encode_queries`, `encode_text`    queries see queries, text sees text
bi-directional (ITM)   `fuse`                             all see all
multi-modal causal     `decode_text`                      all queries, and text up to oneself
(ITG)
=====================  =================================  ==========================================

The query rows of the uni-modal and of the causal mask are the same computation, so `decode_text` takes
the keys and values that `encode_queries` left behind. The image's cross-attention keys and values depend
on the image alone: `read_image` computes them once for every pass that looks at that image. The first
block's self-attention comes before any image is seen: `fuse_pairs` computes it once for each text, however
many images the text meets. Padding is computed nowhere but inside attention (`Packing`).

Shapes: B batch, Q queries, L text tokens, T image tokens, W width, H heads, D = W / H.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from stages.models.packing import Packing
from stages.models.precision import for_products


class KeysValues(NamedTuple):
    """Attention keys and values of one layer."""

    keys: torch.Tensor  # (B, H, N, D)
    values: torch.Tensor  # (B, H, N, D)

    def take(self, rows: torch.Tensor) -> "KeysValues":
        """The same for a selection of the batch."""
        return KeysValues(self.keys[rows], self.values[rows])

    @property
    def length(self) -> int:
        """N."""
        return self.keys.shape[2]

    def then(self, other: "KeysValues") -> "KeysValues":
        """Both, one after the other along the sequence."""
        return KeysValues(torch.cat([self.keys, other.keys], 2), torch.cat([self.values, other.values], 2))


class Memory:
    """Attention keys and values of one layer that grow word by word, without gradients.

    What is new is written behind what is there, in a buffer of full length: `KeysValues.then` would copy all of it
    for each word, which took longer than attention itself.

    Args:
        queries: what is there from the start, (B, H, Q, D).
        room: number of words that may follow.
    """

    def __init__(self, queries: KeysValues, room: int):
        self.queries = self.length = queries.length
        self._all = KeysValues(*(F.pad(part, (0, 0, 0, room)) for part in queries))

    def then(self, words: KeysValues) -> KeysValues:
        """All so far with these behind, which stay. Raises ValueError if there is no room for them."""
        start, self.length = self.length, self.length + words.length
        if self.length > self._all.length:
            raise ValueError(f"no room for more than {self._all.length - self.queries} words")
        for part, new in zip(self._all, words, strict=True):
            part[:, :, start : self.length] = new
        return KeysValues(*(part[:, :, : self.length] for part in self._all))

    def move(self, rows: torch.Tensor, sources: torch.Tensor) -> None:
        """The words of these rows become those that `sources` had; their queries stay."""
        for part in self._all:
            words = part[:, :, self.queries : self.length]
            words[rows] = words[sources]


class Attention(nn.Module):
    """Multi-head attention with BERT's output: projection, dropout, residual, LayerNorm."""

    def __init__(self, width: int, heads: int, dropout: float, source_width: int | None = None):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width or width, width)
        self.value = nn.Linear(source_width or width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def read(self, x: torch.Tensor, packing: Packing | None = None) -> KeysValues:
        """Keys and values of the tokens x (B, N, source width), or (R, source width) if packed."""
        x = for_products(x)
        keys, values = self.key(x), self.value(x)
        if packing is not None:
            keys, values = packing.unpack(keys), packing.unpack(values)
        return KeysValues(self._split(keys), self._split(values))

    def forward(
        self,
        x: torch.Tensor,
        seen: KeysValues,
        mask: torch.Tensor | None = None,
        packing: Packing | None = None,
    ) -> torch.Tensor:
        """x (B, R, W) attends to `seen`; mask (broadcast to B, H, R, N) is True where it may look.

        With `packing`, x and what comes back are packed rows (R, W).
        """
        q = self.query(x)
        a = self._attend(q if packing is None else packing.unpack(q), seen, mask)
        return self._finish(x, a if packing is None else packing.pack(a))

    def look(self, x: torch.Tensor, images: Sequence[tuple[KeysValues, int]]) -> torch.Tensor:
        """x (B, Q, W) attends to groups of images. A group (k images, times) is looked at by the next
        times * k of B: image after image, then all of them again. No image's keys and values are copied.
        """
        q, parts, start = self.query(x), [], 0
        for seen, times in images:
            own = q[start : start + times * len(seen.keys)]
            start += len(own)
            own = own.unflatten(0, (times, -1)).transpose(0, 1).flatten(1, 2)  # (k, times * Q, W)
            own = self._attend(own, seen)
            parts.append(own.unflatten(1, (times, -1)).transpose(0, 1).flatten(0, 1))
        return self._finish(x, torch.cat(parts) if len(parts) > 1 else parts[0])

    def _attend(self, q: torch.Tensor, seen: KeysValues, mask: torch.Tensor | None = None) -> torch.Tensor:
        dropout = self.dropout if self.training else 0.0
        a = F.scaled_dot_product_attention(self._split(q), *seen, attn_mask=mask, dropout_p=dropout)
        return a.transpose(1, 2).flatten(2)  # (B, R, W)

    def _finish(self, x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return self.norm(x + F.dropout(self.out(a), self.dropout, self.training))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, W) -> (B, H, N, D)


class FeedForward(nn.Module):
    """BERT's two-layer perceptron with residual and LayerNorm."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.down(F.gelu(self.up(x)))
        return self.norm(x + F.dropout(y, self.dropout, self.training))


class Block(nn.Module):
    """Self-attention shared by queries and text; cross-attention for queries; one feed-forward for each."""

    def __init__(self, width: int, heads: int, dropout: float, vision_width: int, cross_attention: bool):
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.cross_attention = Attention(width, heads, dropout, vision_width) if cross_attention else None
        self.feed_forward_queries = FeedForward(width, dropout)
        self.feed_forward_text = FeedForward(width, dropout)

    def query_rows(self, x: torch.Tensor, picture: KeysValues | None) -> tuple[torch.Tensor, KeysValues]:
        """Queries (B, Q, W) of the uni-modal mask -> the same behind this block, and their keys and values in it."""
        seen = self.attention.read(x)
        return self.finish_queries(self.attention(x, seen), [(picture, 1)]), seen

    def text_rows(
        self,
        x: torch.Tensor,
        earlier: "KeysValues | Memory | None" = None,
        mask: torch.Tensor | None = None,
        packing: Packing | None = None,
    ) -> torch.Tensor:
        """Text (B, L, W), or packed (R, W), that sees `earlier` and itself as far as `mask` allows."""
        seen = self.attention.read(x, packing)
        seen = seen if earlier is None else earlier.then(seen)
        return self.feed_forward_text(self.attention(x, seen, mask, packing))

    def pair_rows(
        self,
        x: torch.Tensor,
        images: Sequence[tuple[KeysValues | None, int]],
        mask: torch.Tensor,
        both: Packing,
        queries: int,
    ) -> torch.Tensor:
        """Packed rows of all pairs' queries, Q of each, then of their texts; all of a pair see all of it."""
        x = self.attention(x, self.attention.read(x, both), mask, both)
        split = both.batch * queries
        seen = self.finish_queries(x[:split].unflatten(0, (-1, queries)), images)
        return torch.cat([seen.flatten(0, 1), self.feed_forward_text(x[split:])])

    def finish_queries(
        self, x: torch.Tensor, images: Sequence[tuple[KeysValues | None, int]]
    ) -> torch.Tensor:
        """What follows self-attention on query rows (B, Q, W); `images` as `Attention.look` takes them."""
        if self.cross_attention is not None:
            x = self.cross_attention.look(x, images)
        return self.feed_forward_queries(x)


class QFormer(nn.Module):
    """The image-text encoder and, with shared weights, the text generator (paper section 3.2).

    Args:
        width, layers, heads, queries: W, number of blocks, H, Q.
        vision_width: width of the image tokens.
        vocab_size: entries of the word embedding.
        max_positions: longest text, special token included.
        cross_attention_every: blocks 0, k, 2k ... look at the image (1: paper; 2: BLIP-2 and the release).
        dropout: probability, on hidden states and on attention weights.
    """

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        heads: int,
        queries: int,
        vision_width: int,
        vocab_size: int,
        max_positions: int,
        cross_attention_every: int = 1,
        dropout: float = 0.1,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"model.width ({width}) must be a multiple of model.heads ({heads})")
        self.dropout = dropout
        self.query_tokens = nn.Parameter(torch.zeros(1, queries, width))
        self.word_embeddings = nn.Embedding(vocab_size, width)
        self.position_embeddings = nn.Embedding(max_positions, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout, vision_width, cross_attention=i % cross_attention_every == 0)
            for i in range(layers)
        )

    def embed_queries(self, batch: int) -> torch.Tensor:
        """The learnable queries, once per image: (B, Q, W)."""
        return self._embed(self.query_tokens.expand(batch, -1, -1))

    def embed_text(
        self, input_ids: torch.Tensor, start: int = 0, packing: Packing | None = None
    ) -> torch.Tensor:
        """Word and position embeddings of ids (B, L) whose first token stands at position `start`: (B, L, W),
        or (R, W) if packed.
        """
        positions = torch.arange(start, start + input_ids.shape[1], device=input_ids.device)
        if packing is not None:
            input_ids, positions = (
                input_ids.flatten()[packing.index],
                positions[packing.index % packing.length],
            )
        return self._embed(self.word_embeddings(input_ids) + self.position_embeddings(positions))

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.norm(x), self.dropout, self.training)

    def read_image(self, features: torch.Tensor) -> list[KeysValues | None]:
        """Cross-attention keys and values of image tokens (B, T, vision width), one entry per block."""
        return [
            b.cross_attention.read(features) if b.cross_attention is not None else None for b in self.blocks
        ]

    def encode_queries(self, image: list[KeysValues | None]) -> tuple[torch.Tensor, list[KeysValues]]:
        """Query rows of the uni-modal mask.

        Returns the queries' outputs (B, Q, W) and, per block, their self-attention keys and values,
        which are those of the multi-modal causal mask too.
        """
        batch = next(kv.keys.shape[0] for kv in image if kv is not None)
        x, seen = self.embed_queries(batch), []
        for block, picture in zip(self.blocks, image, strict=True):
            x, own = block.query_rows(x, picture)
            seen.append(own)
        return x, seen

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Text rows of the uni-modal mask: ids and mask (B, L) -> outputs of the first token (B, W).

        The last block computes the first row only: nothing else leaves it.
        """
        packing = Packing.of(attention_mask)
        x = self.embed_text(input_ids, packing=packing)  # (R, W)
        mask = attention_mask[:, None, None, :].bool()  # (B, 1, 1, L)
        for block in self.blocks[:-1]:
            x = block.text_rows(x, None, mask, packing)
        block, lengths = self.blocks[-1], attention_mask.sum(1)
        seen = block.attention.read(x, packing)
        first = x[lengths.cumsum(0) - lengths][:, None]  # (B, 1, W)
        return block.feed_forward_text(block.attention(first, seen, mask))[:, 0]

    def encode_tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The same with the outputs of all tokens (B, L, W); what stands at padding means nothing."""
        packing = Packing.of(attention_mask)
        x = self.embed_text(input_ids, packing=packing)  # (R, W)
        mask = attention_mask[:, None, None, :].bool()  # (B, 1, 1, L)
        for block in self.blocks:
            x = block.text_rows(x, None, mask, packing)
        return packing.unpack(x)

    def fuse(
        self, image: list[KeysValues | None], input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Query rows of the bi-directional mask for image i with text i: (B, Q, W)."""
        return self.fuse_pairs([(image, 1)], input_ids, attention_mask)

    def fuse_pairs(
        self,
        images: Sequence[tuple[list[KeysValues | None], int]],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        texts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Query rows of the bi-directional mask for pairs of image and text: (P, Q, W).

        The last block computes no text rows: only the queries' outputs are read (paper Eq. 14).

        Args:
            images: the pairs' images in groups, as `Attention.look` takes them.
            input_ids, attention_mask: the texts (U, L).
            texts: number of each pair's text, (P,); None: pair i has text i.
        """
        n = self.query_tokens.shape[1]
        words = Packing.of(attention_mask)
        both, mask = words.behind(n), _seen_with_queries(attention_mask, n)
        x = torch.cat(
            [self.embed_queries(words.batch).flatten(0, 1), self.embed_text(input_ids, packing=words)]
        )
        for i, block in enumerate(self.blocks[:-1]):
            pictures = [(group[i], times) for group, times in images]
            if texts is None:
                x = block.pair_rows(x, pictures, mask, both, n)
                continue
            # the first block: no image was seen before its cross-attention; from there on, pairs
            x = block.attention(x, block.attention.read(x, both), mask, both)
            split = words.batch * n
            queries, text = x[:split].unflatten(0, (-1, n))[texts], block.feed_forward_text(x[split:])
            grid, attention_mask = words.unpack(text)[texts], attention_mask[texts]
            words, texts = Packing.of(attention_mask), None
            both, mask = words.behind(n), _seen_with_queries(attention_mask, n)
            queries = block.finish_queries(queries, pictures)
            x = torch.cat([queries.flatten(0, 1), words.pack(grid)])
        block = self.blocks[-1]
        queries = x[: words.batch * n].unflatten(0, (-1, n))
        queries = block.attention(queries, block.attention.read(x, both), mask)
        if texts is not None:  # it is the only block
            queries = queries[texts]
        return block.finish_queries(queries, [(group[-1], times) for group, times in images])

    def decode_text(
        self, input_ids: torch.Tensor, seen: Sequence[KeysValues | Memory], packing: Packing | None = None
    ) -> torch.Tensor:
        """Text rows of the multi-modal causal mask.

        Args:
            input_ids: tokens (B, L). Padding may only follow the text: no token looks ahead,
                so what stands behind cannot disturb.
            seen: what `encode_queries` left behind, per block; or a `Memory` of it, which keeps the tokens, so that
                the next call goes on behind them.
            packing: the tokens whose outputs are wanted, with all before them; None: all.
        Returns:
            outputs (B, L, W), or (R, W) if packed.
        """
        before, new = seen[0].length, input_ids.shape[1]
        x = self.embed_text(input_ids, before - self.query_tokens.shape[1], packing)
        mask = None  # a single token sees all
        if new > 1:
            mask = torch.ones(new, before + new, dtype=torch.bool, device=x.device).tril(before)
        for block, earlier in zip(self.blocks, seen, strict=True):
            x = block.text_rows(x, earlier, mask, packing)
        return x


def _seen_with_queries(attention_mask: torch.Tensor, queries: int) -> torch.Tensor:
    """(B, 1, 1, Q + L): True for queries and real words."""
    return F.pad(attention_mask.bool(), (queries, 0), value=True)[:, None, None, :]
