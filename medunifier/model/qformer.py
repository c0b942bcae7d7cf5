"""The Q-Former: one BERT-shaped transformer over [queries ; text] that reads an image by cross-attention.

Paper section 3.2-3.3 and Fig. 2. Its three attention masks are not built as masks here. Of each, only the rows and
keys that it leaves visible are computed:

=====================  =============================  ==========================================
mask (Fig. 2)          rows computed                  keys seen
=====================  =============================  ==========================================
uni-modal (ITC)        queries, and text              queries see queries, text sees text
multi-modal causal     text                           all queries, and text up to oneself
(ITG)
bi-directional (ITM)   queries, with text for them    all see all
=====================  =============================  ==========================================

The query rows of the uni-modal and of the causal mask are the same computation, done once. Whatever a block does to
rows one by one (every product with weights, norms, dropout) it does to all rows of a pass at once; attention alone
goes `Group` by `Group`. So `encode` is one pass for ITC and ITG together, `fuse_pairs` another for ITM, whose pairs are
chosen by what the first has found. The image's cross-attention keys and values depend on the image alone:
`read_image` computes them once for every pass that looks at that image. The first block's self-attention comes
before any image is seen: `fuse_pairs` computes it once for each text, however many images the text meets. Padding is
computed nowhere but inside attention (`Packing`).

Shapes: B batch, Q queries, L text tokens, T image tokens, W width, H heads, D = W / H, R rows of a pass.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.packing import Packing
from medunifier.model.precision import for_products, for_residual_and_products


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


class Group(NamedTuple):
    """Rows of a pass that attend to each other, in a grid (B, N)."""

    packing: Packing  # the places of the grid that are rows
    mask: torch.Tensor | None = None  # broadcast to (B, H, N, keys): True where a place may look
    follows: bool = False  # sees, before its own, the keys and values of the pass's first group
    wanted: int | None = None  # behind the last block only the first so many places are wanted; None: all


class Attention(nn.Module):
    """What self- and cross-attention share: the heads, and BERT's output (projection, dropout, residual, LayerNorm)."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def attend(self, q: torch.Tensor, seen: KeysValues, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Queries of all heads (B, H, N, D) -> (B, N, W), heads side by side."""
        dropout = self.dropout if self.training else 0.0
        a = F.scaled_dot_product_attention(q, *seen, attn_mask=mask, dropout_p=dropout)
        return a.transpose(1, 2).flatten(2)

    def finish(self, x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Tokens and what they have seen, both (..., W) -> the tokens behind this layer."""
        return self.norm(x + F.dropout(self.out(a), self.dropout, self.training))

    def split_heads(self, x: torch.Tensor, parts: int) -> Sequence[torch.Tensor]:
        """(B, N, parts * W) -> as many of (B, H, N, D)."""
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
        earlier: "KeysValues | Memory | None" = None,
        last: bool = False,
    ) -> tuple[torch.Tensor, KeysValues]:
        """Rows (R, W), group after group -> the rows behind this layer, and keys and values of the first group.

        Args:
            earlier: what groups that follow see, instead of the first group's.
            last: leave out of each group what is not wanted behind the last block.
        """
        found, kept, first = [], [], None
        rows = [group.packing.rows for group in groups]
        x, y = for_residual_and_products(x)
        products = self.query_key_value(y).split(rows)
        for group, own, product in zip(groups, x.split(rows), products, strict=True):
            q, *keys_values = self.split_heads(group.packing.unpack(product), 3)
            seen = KeysValues(*keys_values)
            first = first or seen
            if group.follows:
                seen = (earlier or first).then(seen)
            if last and group.wanted:
                a = self.attend(q[:, :, : group.wanted], seen, group.mask).flatten(0, 1)
                own = group.packing.unpack(own)[:, : group.wanted].flatten(0, 1)
            else:
                a = group.packing.pack(self.attend(q, seen, group.mask))
            found.append(a)
            kept.append(own)
        if len(groups) == 1:
            return self.finish(kept[0], found[0]), first
        return self.finish(torch.cat(kept) if last else x, torch.cat(found)), first


class CrossAttention(Attention):
    """Queries attend to the tokens of images."""

    def __init__(self, width: int, heads: int, dropout: float, vision_width: int):
        super().__init__(width, heads, dropout)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(vision_width, 2 * width)

    def forward(self, x: torch.Tensor, images: Sequence[tuple[torch.Tensor, int]]) -> torch.Tensor:
        """X (B, Q, W) attends to groups of images by their `key_value` (k, T, 2 W). A group (k images, times) is looked
        at by the next times * k of B: image after image, then all of them again. No image's keys and values are copied.
        """
        x, y = for_residual_and_products(x)
        queries, parts = self.query(y).split([len(image) * times for image, times in images]), []
        for q, (image, times) in zip(queries, images, strict=True):
            q = q.unflatten(0, (times, -1)).transpose(0, 1).flatten(1, 2)  # (k, times * Q, W)
            a = self.attend(*self.split_heads(q, 1), KeysValues(*self.split_heads(image, 2)))
            parts.append(a.unflatten(1, (times, -1)).transpose(0, 1).flatten(0, 1))
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
        earlier: "KeysValues | Memory | None" = None,
        last: bool = False,
    ) -> tuple[torch.Tensor, KeysValues]:
        """Rows (R, W), those of `queries` (images, Q of each) before text -> the same behind this block, and the first
        group's keys and values; `images` as `CrossAttention` takes them, the rest as `SelfAttention` does.
        """
        x, seen = self.attention(x, groups, earlier, last)
        return self.finish(x, queries, images), seen

    def finish(
        self,
        x: torch.Tensor,
        queries: tuple[int, int],
        images: Sequence[tuple[torch.Tensor | None, int]],
    ) -> torch.Tensor:
        """What follows self-attention."""
        split = queries[0] * queries[1]
        if not split:
            return self.feed_forward_text(x)
        x, text = x.split([split, len(x) - split])
        if self.cross_attention is not None:
            x = self.cross_attention(x.unflatten(0, queries), images).flatten(0, 1)
        x = self.feed_forward_queries(x)
        return torch.cat([x, self.feed_forward_text(text)]) if len(text) else x


class Encoded(NamedTuple):
    """What `QFormer.encode` has found."""

    queries: torch.Tensor  # (B, Q, W), of the uni-modal mask
    seen: list[KeysValues]  # of the queries in each block's self-attention, (B, H, Q, D)
    text: torch.Tensor | None  # (B, W), of the first token, of the uni-modal mask
    words: torch.Tensor | None  # (R, W), of the multi-modal causal mask


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

    def read_image(self, features: torch.Tensor) -> list[torch.Tensor | None]:
        """Cross-attention keys and values (B, T, 2 W) of image tokens (B, T, vision width), one entry per block."""
        features = for_products(features)
        return [
            b.cross_attention.key_value(features) if b.cross_attention is not None else None
            for b in self.blocks
        ]

    def encode(
        self,
        image: list[torch.Tensor | None],
        text: tuple[torch.Tensor, torch.Tensor] | None = None,
        words: tuple[torch.Tensor, Packing] | None = None,
    ) -> Encoded:
        """Queries and text of the uni-modal mask, and text of the multi-modal causal mask behind the same queries.

        Args:
            image: of `read_image`.
            text: ids and mask (B, L), as `encode_text` takes them.
            words: ids (B, L) and the places of them whose outputs are wanted, as `decode_text` takes them.
        """
        n = self.query_tokens.shape[1]
        batch = next(len(kv) for kv in image if kv is not None)
        groups, tokens = [Group(Packing.whole(batch, n))], []
        if text is not None:
            groups.append(_uni_modal(text[1], wanted=1))
            tokens.append(_tokens(text[0], groups[-1].packing))
        if words is not None:
            groups.append(_causal(words[1], n, words[0].device))
            tokens.append(_tokens(*words))
        x, seen = self._embed(batch, tokens), []
        for i, block in enumerate(self.blocks):
            x, own = block(x, groups, (batch, n), [(image[i], 1)], last=i == len(self.blocks) - 1)
            seen.append(own)
        queries, *parts = x.split(
            [batch * group.wanted if group.wanted else group.packing.rows for group in groups]
        )
        return Encoded(
            queries=queries.unflatten(0, (batch, n)),
            seen=seen,
            text=None if text is None else parts[0],
            words=None if words is None else parts[-1],
        )

    def encode_queries(self, image: list[torch.Tensor | None]) -> tuple[torch.Tensor, list[KeysValues]]:
        """Query rows of the uni-modal mask.

        Returns the queries' outputs (B, Q, W) and, per block, their self-attention keys and values,
        which are those of the multi-modal causal mask too.
        """
        return self.encode(image)[:2]

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Text rows of the uni-modal mask: ids and mask (B, L) -> outputs of the first token (B, W).

        Of the last block nothing but the first row is computed: nothing else leaves it.
        """
        return self._encode_text(input_ids, _uni_modal(attention_mask, wanted=1))

    def encode_tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The same with the outputs of all tokens (B, L, W); what stands at padding means nothing."""
        group = _uni_modal(attention_mask)
        return group.packing.unpack(self._encode_text(input_ids, group))

    def _encode_text(self, input_ids: torch.Tensor, group: Group) -> torch.Tensor:
        x = self._embed(0, [_tokens(input_ids, group.packing)])
        for i, block in enumerate(self.blocks):
            x, _ = block(x, [group], last=i == len(self.blocks) - 1)
        return x

    def fuse(
        self, image: list[torch.Tensor | None], input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Query rows of the bi-directional mask for image i with text i: (B, Q, W)."""
        return self.fuse_pairs([(image, 1)], input_ids, attention_mask)

    def fuse_pairs(
        self,
        images: Sequence[tuple[list[torch.Tensor | None], int]],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        texts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Query rows of the bi-directional mask for pairs of image and text: (P, Q, W).

        The last block computes no text rows: only the queries' outputs are read (paper Eq. 14).

        Args:
            images: the pairs' images in groups, as `CrossAttention` takes them.
            input_ids, attention_mask: the texts (U, L).
            texts: number of each pair's text, (P,); None: pair i has text i.
        """
        n = self.query_tokens.shape[1]
        words = Packing.of(attention_mask)
        group = _bi_directional(words, attention_mask, n)
        x = self._embed(words.batch, [_tokens(input_ids, words)])
        for i, block in enumerate(self.blocks):
            seen_images, last = [(seen[i], times) for seen, times in images], i == len(self.blocks) - 1
            if texts is None:
                x, _ = block(x, [group], (words.batch, n), seen_images, last=last)
                continue
            # the first block: no image was seen before its cross-attention; from there on, pairs
            x, _ = block.attention(x, [group], last=last)
            queries, text = x.split([words.batch * n, len(x) - words.batch * n])
            x = queries.unflatten(0, (-1, n))[texts].flatten(0, 1)
            if not last:
                grid = words.unpack(block.feed_forward_text(text))[texts]
                attention_mask = attention_mask[texts]
                words = Packing.of(attention_mask)
                group = _bi_directional(words, attention_mask, n)
            x = block.finish(x, (len(texts), n), seen_images)
            if not last:
                x = torch.cat([x, words.pack(grid)])
            texts = None
        return x.unflatten(0, (-1, n))

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
        places = packing or Packing.whole(*input_ids.shape)
        before = seen[0].length
        group = _causal(places, before, input_ids.device)
        x = self._embed(0, [_tokens(input_ids, places, before - self.query_tokens.shape[1])])
        for block, earlier in zip(self.blocks, seen, strict=True):
            x, _ = block(x, [group], earlier=earlier)
        return x if packing is not None else x.unflatten(0, input_ids.shape)

    def _embed(self, batch: int, tokens: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Rows (R, W): the learnable queries, `batch` times, then tokens by ids and positions."""
        parts = []
        if batch:
            parts.append(self.query_tokens.expand(batch, -1, -1).flatten(0, 1))
        if tokens:
            ids, positions = (torch.cat(part) for part in zip(*tokens, strict=True))
            parts.append(self.word_embeddings(ids) + self.position_embeddings(positions))
        x = torch.cat(parts) if len(parts) > 1 else parts[0]
        return F.dropout(self.norm(x), self.dropout, self.training)


def _tokens(input_ids: torch.Tensor, places: Packing, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and positions of the rows of ids (B, L) whose first token stands at position `start`: both (R,)."""
    positions = torch.arange(start, start + input_ids.shape[1], device=input_ids.device)
    return places.pick(input_ids), places.pick(positions.expand_as(input_ids))


def _uni_modal(attention_mask: torch.Tensor, wanted: int | None = None) -> Group:
    """Texts (B, L) that see themselves."""
    return Group(Packing.of(attention_mask), attention_mask[:, None, None, :].bool(), wanted=wanted)


def _causal(places: Packing, before: int, device: torch.device) -> Group:
    """Texts that see `before` keys, and themselves up to each token."""
    new, mask = places.length, None  # a single token sees all
    if new > 1:
        mask = torch.ones(new, before + new, dtype=torch.bool, device=device).tril(before)
    return Group(places, mask, follows=True)


def _bi_directional(words: Packing, attention_mask: torch.Tensor, queries: int) -> Group:
    """Pairs of Q queries and a text that see all of each other; the queries are wanted."""
    seen = F.pad(attention_mask.bool(), (queries, 0), value=True)[:, None, None, :]  # (B, 1, 1, Q + L)
    return Group(words.behind(queries), seen, wanted=queries)
