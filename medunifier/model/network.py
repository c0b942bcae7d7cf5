"""MedUnifier's network: Q-Former, text head and image generator (paper section 3, Fig. 2), and its inference."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.config import Sizes, check_sizes
from medunifier.model.image_generator import BOTTOM_GRID, TOP_GRID, Generated, ImageGenerator
from medunifier.model.precision import at_least_float32, for_products, full_precision
from medunifier.model.qformer import QFormer
from medunifier.model.report_decoding import Limits, NextWord, Sampling, beam_search, choose_words
from medunifier.model.text import TextHead
from medunifier.runtime.errors import InputError


class MedUnifierNetwork(nn.Module):
    """The trainable network. It reads the image features of a frozen encoder.

    Shapes: B batch, T image tokens (1 + patches), L text tokens, Q queries, W width, P projection, V vocabulary.
    Features are (B, T, vision width). `input_ids` and `attention_mask` are (B, L): texts begin with [CLS] and end
    with [SEP], padding follows.

    `MedUnifierModel` is the same network as a transformers model. This class needs nothing of transformers, whose
    import takes longer than many an evaluation.
    """

    def __init__(self, config: Sizes):
        super().__init__()
        self.config = config
        self.build()

    def build(self) -> None:
        """Create the modules, with torch's random weights.

        Raises:
            InputError: as `check_sizes` does.
        """
        c = self.config
        check_sizes(c)
        self.vision_norm = nn.LayerNorm(c.vision_width)
        self.qformer = QFormer(
            width=c.width,
            layers=c.layers,
            heads=c.heads,
            queries=c.queries,
            vision_width=c.vision_width,
            vocab_size=c.vocab_size,
            max_positions=c.max_text_tokens,
            cross_attention_every=c.cross_attention_every,
            dropout=c.dropout,
            places=_grid(c) if c.vision_position == "sinusoidal" else None,
        )
        self.text_head = TextHead(c.width, c.vocab_size)
        self.query_projection = nn.Linear(c.width, c.projection)
        self.text_projection = nn.Linear(c.width, c.projection)
        self.match_head = nn.Linear(c.width, 2)
        self.log_temperature = nn.Parameter(torch.tensor(c.temperature).log())
        self.image_generator = ImageGenerator(
            query_width=c.width,
            vision_width=c.vision_width,
            grid=_grid(c),
            queries=c.queries,
            code_width=c.code_width,
            codebook_size=c.codebook_size,
            decoder_channels=tuple(c.decoder_channels),
            image_channels=c.image_channels,
            decoder_kind=c.decoder_kind,
            norm=c.decoder_norm,
            decoder_shortcut=c.decoder_shortcut,
            adapter=c.adapter,
            adapter_blocks=c.adapter_blocks,
            adapter_residual=c.adapter_residual,
            adapter_position=c.adapter_position,
            bottom_latents=c.bottom_latents,
            codebook_start=c.codebook_start,
        )

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.log_temperature.device

    @property
    def temperature(self) -> torch.Tensor:
        """Temperature tau of Eq. 10-11, a scalar."""
        return self.log_temperature.exp()

    def read_image(self, features: torch.Tensor) -> list[torch.Tensor | None]:
        """Return the cross-attention keys and values of features (B, T, vision width); see `QFormer.read_image`."""
        return self.qformer.read_image(self.normalise_tokens(features))

    def normalise_tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the trainable LayerNorm after the frozen encoder to features (B, T, vision width).

        It is computed in full precision, since much of a token may be the same in every image. Only the outcome is
        rounded.
        """
        return for_products(self.vision_norm(features.to(self.vision_norm.weight.dtype)))

    def encode_image(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return query outputs f^q (B, Q, W) and their L2-normalised ITC embeddings (B, Q, P) (Eq. 8)."""
        queries, _ = self.qformer.encode_queries(self.read_image(features))
        return queries, self.embed_queries(queries)

    def encode_text(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output of [CLS] (B, W) and its L2-normalised ITC embedding (B, P) (Eq. 9)."""
        text = self.qformer.encode_text(input_ids, attention_mask)
        return text, self.embed_text(text)

    def embed_queries(self, queries: torch.Tensor) -> torch.Tensor:
        """Return the L2-normalised ITC embeddings (B, Q, P), float32, of query outputs (B, Q, W)."""
        return _unit_vectors(self.query_projection, queries)

    def embed_text(self, text: torch.Tensor) -> torch.Tensor:
        """Return the L2-normalised ITC embeddings (B, P), float32, of outputs of [CLS] (B, W)."""
        return _unit_vectors(self.text_projection, text)

    def read_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the outputs of all tokens (B, L, W), [CLS] first; they condition a prior of image codes."""
        return self.qformer.encode_tokens(input_ids, attention_mask)

    def match(
        self, features: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Return ITM logits (B, 2) of (not matched, matched), averaged over the queries (Eq. 14)."""
        return self.match_logits(self.qformer.fuse(self.read_image(features), input_ids, attention_mask))

    def match_logits(self, fused: torch.Tensor) -> torch.Tensor:
        """Return ITM logits (B, 2), float32, of query outputs (B, Q, W) of the bi-directional mask (Eq. 14)."""
        return _linear(self.match_head, fused).mean(1)

    def text_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (..., V) of the next token, of text outputs x (..., W) (Eq. 16)."""
        return self.text_head(x, self.qformer.word_embeddings.weight)

    @torch.no_grad()
    def generate(
        self,
        features: torch.Tensor,
        *,
        num_beams: int = 1,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        length_penalty: float = 1.0,
        max_new_tokens: int | None = None,
        generator: torch.Generator | None = None,
        use_cache: bool = True,
    ) -> torch.Tensor:
        """Generate a report for each image (Eq. 15-17).

        Args:
            features: image features (B, T, vision width).
            num_beams: running texts of a beam search; 1: greedy decoding, or sampling.
            do_sample: sample each token from what `keep_likely` leaves.
            temperature: divides the logits before sampling.
            top_k: sample from so many likeliest tokens; None: from all.
            top_p: sample from the nucleus of this probability; None: from all.
            length_penalty: of a beam search, exponent of the length.
            max_new_tokens: longest report in tokens, [SEP] included; None: as many as there are positions.
            generator: source of the random numbers of sampling.
            use_cache: keep keys and values of earlier tokens, so that a step computes one token. The result does not
                depend on it.

        Returns:
            Token ids (B, L), L at most `max_new_tokens`: each row ends with [SEP], padding follows.

        Raises:
            ValueError: `do_sample` together with beams, or `max_new_tokens` below 1.
        """
        _check_search(num_beams, do_sample, max_new_tokens)
        c = self.config
        length = min(max_new_tokens or c.max_text_tokens, c.max_text_tokens)
        decoder = self._report_decoder(features, num_beams, length, use_cache)
        first = torch.full((len(features), 1), c.decode_token_id, device=features.device)
        limits = Limits(length, c.sep_token_id, c.pad_token_id)
        if num_beams > 1:
            return beam_search(decoder, first, limits, num_beams, length_penalty)
        sampling = Sampling(temperature, top_k, top_p, generator) if do_sample else None
        return choose_words(decoder, first, limits, sampling)

    def _report_decoder(self, features: torch.Tensor, rows: int, room: int, use_cache: bool) -> NextWord:
        """Return the decoder of `rows` texts per image, each of at most `room` tokens."""
        c = self.config
        _, queries = self.qformer.encode_queries(self.read_image(features))
        if rows > 1:
            images = torch.arange(len(features), device=features.device).repeat_interleave(rows)
            queries = [kv.take(images) for kv in queries]
        never = (c.pad_token_id, c.cls_token_id, c.decode_token_id)  # no part of a report
        return NextWord(self.qformer, self.text_logits, queries, never=never, room=room, use_cache=use_cache)

    def reconstruct(
        self, features: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the reconstructions (B, image channels, 224, 224), in [0, 1], of images with their reports (Eq. 22)."""
        return self.generate_image(features, input_ids, attention_mask).images.clamp(0, 1)

    def encode_codes(
        self, features: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the codes of both levels, row by row: top (B, 64), bottom (B, 256)."""
        queries, _ = self.encode_image(features)
        text, _ = self.encode_text(input_ids, attention_mask)
        top, bottom, _ = self.image_generator.quantize(queries, self.normalise_tokens(features)[:, 1:], text)
        return top.codes.flatten(1), bottom.codes.flatten(1)

    def decode_codes(self, top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
        """Decode codes (B, 64) and (B, 256) to images (B, image channels, 224, 224) in [0, 1]."""
        return self.image_generator.decode(
            top.unflatten(1, (TOP_GRID, TOP_GRID)).long(),
            bottom.unflatten(1, (BOTTOM_GRID, BOTTOM_GRID)).long(),
        )

    def generate_image(
        self, features: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> Generated:
        """Return the reconstructions, unclamped, with what the quantiser gives (Eq. 18-22)."""
        queries, _ = self.encode_image(features)
        text, _ = self.encode_text(input_ids, attention_mask)
        return cast(Generated, self.image_generator(queries, self.normalise_tokens(features)[:, 1:], text))


def _grid(config: Sizes) -> tuple[int, int]:
    """Return rows and columns of the image features without the first.

    Raises:
        InputError: they fill no such grid.
    """
    patches, grid = config.vision_tokens - 1, config.vision_grid
    rows, columns = (math.isqrt(max(patches, 0)),) * 2 if grid is None else grid
    if rows * columns != patches or patches < 1:
        expected = (
            "a square number, or set vision_grid"
            if grid is None
            else f"{rows} x {columns}, as vision_grid is {grid}"
        )
        raise InputError(
            f"config.json of the model: vision_tokens is {config.vision_tokens}; expected 1 + {expected}"
        )
    return rows, columns


def _linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Apply a small layer in the precision of its weights, under autocast, too; return at least float32."""
    with full_precision(x):
        return at_least_float32(layer(x.to(layer.weight.dtype)))


def _unit_vectors(projection: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Return projections of x (..., W), each of length 1, at least float32 (..., P)."""
    return F.normalize(_linear(projection, x), dim=-1)


def _check_search(num_beams: int, do_sample: bool, max_new_tokens: int | None) -> None:
    if max_new_tokens is not None and max_new_tokens < 1:
        raise ValueError(f"generate: max_new_tokens is {max_new_tokens}; at least 1, or None")
    if do_sample and num_beams > 1:
        raise ValueError("generate: either do_sample or num_beams > 1, not both")
