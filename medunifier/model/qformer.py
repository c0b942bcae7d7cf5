"""The Q-Former: one BERT-shaped transformer over [queries ; text] that reads an image by cross-attention.

Paper section 3.2-3.3 and Fig. 2. Its three attention masks are not built as masks here. Of each, only the rows and
keys that it leaves visible are computed:

=====================  =============================  ==========================================
mask (Fig. 2)          rows computed                  keys attended to
=====================  =============================  ==========================================
uni-modal (ITC)        queries, and text              queries: queries; text: text
multi-modal causal     text                           all queries, and text up to itself
(ITG)
bi-directional (ITM)   queries, with text for them    all
=====================  =============================  ==========================================

* The query rows of the uni-modal and of the causal mask are the same computation, done once.
* Operations on single rows (products with weights, norms, dropout) run on all rows of a pass at once. Attention alone
  runs `Group` by `Group`.
* So `encode` is one pass for ITC and ITG together. `fuse_pairs` is another for ITM, whose pairs are chosen by the
  similarities of the first.
* The cross-attention keys and values depend on the image alone: `read_image` computes them once for every pass.
* The first block's self-attention comes before any cross-attention: `fuse_pairs` computes it once per text, however
  many images the text is paired with.
* Padding is computed nowhere but inside attention (`Packing`).

Shapes: B batch, Q queries, L text tokens, T image tokens, W width, H heads, D = W / H, R rows of a pass.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.attention import Block, Group, KeysValues, Memory
from medunifier.model.image_layers import sinusoidal_positions
from medunifier.model.packing import Packing
from medunifier.model.precision import for_products
from medunifier.runtime.errors import InputError


class Encoded(NamedTuple):
    """Outputs of `QFormer.encode`."""

    queries: torch.Tensor  # (B, Q, W), of the uni-modal mask
    keys_values: list[KeysValues]  # of the queries in each block's self-attention, (B, H, Q, D)
    text: torch.Tensor | None  # (B, W), of the first token, of the uni-modal mask
    words: torch.Tensor | None  # (R, W), of the multi-modal causal mask


class QFormer(nn.Module):
    """The image-text encoder and, with shared weights, the text generator (paper section 3.2).

    Args:
        width, layers, heads, queries: W, number of blocks, H, Q.
        vision_width: width of the image features.
        vocab_size: entries of the word embedding.
        max_positions: longest text in tokens, the first token included.
        cross_attention_every: blocks 0, k, 2k ... have cross-attention (1: paper; 2: BLIP-2 and the authors' code).
        dropout: probability, on hidden states and on attention weights.
        places: rows and columns of the image tokens without the first, whose sinusoidal positions are added to them (as
            Carion et al. 2020 add them to the maps of a CNN), in as many channels as make whole fours; None: nothing is
            added.

    Raises:
        ValueError: `width` is no multiple of `heads`.
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
        places: tuple[int, int] | None = None,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"model.width ({width}) must be a multiple of model.heads ({heads})")
        self.dropout = dropout
        self.places = places
        self.query_tokens = nn.Parameter(torch.zeros(1, queries, width))
        self.word_embeddings = nn.Embedding(vocab_size, width)
        self.position_embeddings = nn.Embedding(max_positions, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout, vision_width, cross_attention=i % cross_attention_every == 0)
            for i in range(layers)
        )

    def read_image(self, features: torch.Tensor) -> list[torch.Tensor | None]:
        """Return the cross-attention keys and values (B, T, 2 W) of each block, None where it has none.

        Args:
            features: normalised image features (B, T, vision width).

        Raises:
            InputError: the tokens do not fill `places`.
        """
        features = for_products(self._placed(features))
        return [
            block.cross_attention.key_value(features) if block.cross_attention is not None else None
            for block in self._blocks
        ]

    def _placed(self, features: torch.Tensor) -> torch.Tensor:
        """Add the positions of `places` to image features (B, T, vision width), the first token excepted."""
        if self.places is None:
            return features
        rows, columns = self.places
        if features.shape[1] != 1 + rows * columns:
            raise InputError(
                f"image features of {features.shape[1]} tokens; the model reads 1 + {rows} x {columns} of them "
                "(vision_grid in its config.json): encode the images with its own encoder at its own size"
            )
        width = features.shape[2]
        channels = width // 4 * 4
        positions = sinusoidal_positions(channels, rows, columns, features).flatten(1).T  # (T - 1, channels)
        return features + F.pad(positions, (0, width - channels, 1, 0))

    def encode(
        self,
        image: list[torch.Tensor | None],
        text: tuple[torch.Tensor, torch.Tensor] | None = None,
        words: tuple[torch.Tensor, Packing] | None = None,
    ) -> Encoded:
        """Encode queries and text with the uni-modal mask, and text with the multi-modal causal one, in one pass.

        Args:
            image: of `read_image`.
            text: ids and mask (B, L), as in `encode_text`.
            words: ids (B, L) and the places whose outputs are wanted, as in `decode_text`.
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
        x, keys_values = self._embed(batch, tokens), []
        for i, block in enumerate(self.blocks):
            x, own = block(x, groups, (batch, n), [(image[i], 1)], last=i == len(self.blocks) - 1)
            keys_values.append(own)
        queries, *parts = x.split(
            [batch * group.wanted if group.wanted else group.packing.rows for group in groups]
        )
        return Encoded(
            queries=queries.unflatten(0, (batch, n)),
            keys_values=keys_values,
            text=None if text is None else parts[0],
            words=None if words is None else parts[-1],
        )

    def encode_queries(self, image: list[torch.Tensor | None]) -> tuple[torch.Tensor, list[KeysValues]]:
        """Encode the query rows of the uni-modal mask.

        Returns:
            The queries' outputs (B, Q, W) and, per block, their self-attention keys and values, which are those of
            the multi-modal causal mask too.
        """
        encoded = self.encode(image)
        return encoded.queries, encoded.keys_values

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Encode the text rows of the uni-modal mask: ids and mask (B, L) -> outputs of the first token (B, W).

        Of the last block only the first row is computed.
        """
        return self._encode_text(input_ids, _uni_modal(attention_mask, wanted=1))

    def encode_tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Encode text as `encode_text` does, to outputs of all tokens (B, L, W); those at padding are arbitrary."""
        group = _uni_modal(attention_mask)
        return group.packing.unpack(self._encode_text(input_ids, group))

    def fuse(
        self, image: list[torch.Tensor | None], input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Encode the query rows of the bi-directional mask, for image i with text i: (B, Q, W)."""
        return self.fuse_pairs([(image, 1)], input_ids, attention_mask)

    def fuse_pairs(
        self,
        images: Sequence[tuple[list[torch.Tensor | None], int]],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        texts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encode the query rows of the bi-directional mask, for P pairs of image and text: (P, Q, W).

        The last block computes no text rows: only the queries' outputs are read (paper Eq. 14).

        Args:
            images: the pairs' images in groups, as in `CrossAttention.forward`, an entry of `read_image` per block.
            input_ids: the texts (U, L).
            attention_mask: 1 at their tokens, 0 at padding (U, L).
            texts: number of each pair's text, (P,); None: pair i has text i.
        """
        n = self.query_tokens.shape[1]
        words = Packing.of(attention_mask)
        group = _bi_directional(words, attention_mask, n)
        x = self._embed(words.batch, [_tokens(input_ids, words)])
        for i, block in enumerate(self._blocks):
            block_images = [(read[i], times) for read, times in images]
            last = i == len(self.blocks) - 1
            if texts is None:
                x, _ = block(x, [group], (words.batch, n), block_images, last=last)
                continue
            # The first block's self-attention depends on the text alone; from its cross-attention on, rows are pairs.
            x, _ = block.attention(x, [group], last=last)
            queries, text = x.split([words.batch * n, len(x) - words.batch * n])
            x = queries.unflatten(0, (-1, n))[texts].flatten(0, 1)  # (P * Q, W)
            if last:
                x = block.finish(x, (len(texts), n), block_images)
            else:
                grid = words.unpack(block.feed_forward_text(text))[texts]  # (P, L, W)
                attention_mask = attention_mask[texts]
                words = Packing.of(attention_mask)
                group = _bi_directional(words, attention_mask, n)
                x = block.finish(x, (len(texts), n), block_images)
                x = torch.cat([x, words.pack(grid)])
            texts = None
        return x.unflatten(0, (-1, n))

    def decode_text(
        self,
        input_ids: torch.Tensor,
        earlier: Sequence[KeysValues | Memory],
        packing: Packing | None = None,
    ) -> torch.Tensor:
        """Encode the text rows of the multi-modal causal mask.

        Args:
            input_ids: tokens (B, L). Padding may only follow the text: no token attends to later ones.
            earlier: keys and values from `encode_queries`, per block; or a `Memory` of them, which keeps those of
                the tokens, so that the next call continues after them.
            packing: the tokens whose outputs are wanted, with all before them; None: all.

        Returns:
            outputs (B, L, W), or (R, W) if packed.
        """
        places = packing or Packing.whole(*input_ids.shape)
        before = earlier[0].length
        group = _causal(places, before, input_ids.device)
        x = self._embed(0, [_tokens(input_ids, places, before - self.query_tokens.shape[1])])
        for block, keys_values in zip(self.blocks, earlier, strict=True):
            x, _ = block(x, [group], earlier=keys_values)
        return x if packing is not None else x.unflatten(0, input_ids.shape)

    @property
    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def _encode_text(self, input_ids: torch.Tensor, group: Group) -> torch.Tensor:
        x = self._embed(0, [_tokens(input_ids, group.packing)])
        for i, block in enumerate(self.blocks):
            x, _ = block(x, [group], last=i == len(self.blocks) - 1)
        return x

    def _embed(self, batch: int, tokens: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Return rows (R, W): the learnable queries, `batch` times, then tokens by ids and positions."""
        parts = []
        if batch:
            parts.append(self.query_tokens.expand(batch, -1, -1).flatten(0, 1))
        if tokens:
            ids, positions = (torch.cat(part) for part in zip(*tokens, strict=True))
            parts.append(self.word_embeddings(ids) + self.position_embeddings(positions))
        x = torch.cat(parts) if len(parts) > 1 else parts[0]
        return F.dropout(self.norm(x), self.dropout, self.training)


def _tokens(input_ids: torch.Tensor, places: Packing, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and positions (R,) of ids (B, L) whose first token has position `start`."""
    positions = torch.arange(start, start + input_ids.shape[1], device=input_ids.device)
    return places.pick(input_ids), places.pick(positions.expand_as(input_ids))


def _uni_modal(attention_mask: torch.Tensor, wanted: int | None = None) -> Group:
    """Return the group of texts (B, L) that attend to themselves."""
    return Group(Packing.of(attention_mask), attention_mask[:, None, None, :].bool(), wanted=wanted)


def _causal(places: Packing, before: int, device: torch.device) -> Group:
    """Return the group of texts whose tokens attend to `before` keys and to the text up to themselves."""
    new, mask = places.length, None  # a single token attends to all
    if new > 1:
        mask = torch.ones(new, before + new, dtype=torch.bool, device=device).tril(before)
    return Group(places, mask, follows=True)


def _bi_directional(words: Packing, attention_mask: torch.Tensor, queries: int) -> Group:
    """Return the group of pairs of Q queries and a text that attend to all of each other; the queries are wanted."""
    visible = F.pad(attention_mask.bool(), (queries, 0), value=True)[:, None, None, :]  # (B, 1, 1, Q + L)
    return Group(words.after_queries(queries), visible, wanted=queries)
