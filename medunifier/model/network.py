"""MedUnifier: Q-Former, text head and image generator (paper section 3, Fig. 2), and what it can do once trained."""

from pathlib import Path
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from medunifier.model.config import Sizes
from medunifier.model.image_generator import Generated, ImageGenerator
from medunifier.model.precision import for_products
from medunifier.model.qformer import QFormer
from medunifier.model.report_decoding import NextWord, beam_search, choose_words
from medunifier.runtime.errors import InputError
from medunifier.vision.frozen_encoder import FrozenViT, load_recorded_vision


class Text(NamedTuple):
    """A batch of reports as `MedUnifierNetwork.read_text` gives them to a prior."""

    states: torch.Tensor  # (B, L, text width)
    mask: torch.Tensor  # (B, L), true where there is a token


class TextHead(nn.Module):
    """BERT's prediction head; the output matrix is the word embedding (H_itg, Eq. 16)."""

    def __init__(self, width: int, vocab_size: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """X (..., W) and word embeddings (V, W) -> logits (..., V)."""
        x, bias = for_products(self.norm(F.gelu(self.dense(x)))), self.bias
        missing = -len(words) % 8
        if x.dtype.itemsize > 2 or not missing:
            return F.linear(x, words, bias)
        # tensor cores take rows of whole 16 bytes: BERT's vocabulary with [DEC] took 3 times as long on an H100
        return F.linear(x, F.pad(words, (0, 0, 0, missing)), F.pad(bias, (0, missing)))[..., : len(words)]


class MedUnifierNetwork(nn.Module):
    """The trainable network; it reads the tokens of a frozen ViT.

    Shapes: features (B, 1 + patches, vision width); input_ids and attention_mask (B, L), texts begin with [CLS]
    and end with [SEP], padding follows.

    `MedUnifierModel` is the same as a model of transformers, with its training. It is a class of its own, and needs
    nothing of transformers, because that takes seconds to import, more than many an evaluation takes.
    """

    def __init__(self, config: Sizes):
        super().__init__()
        self.config = config
        self.build()

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The trained network of a folder that `MedUnifierModel.save_pretrained` wrote, in evaluation mode.

        Raises OSError if a file is missing or its weights are not those of this network, SafetensorError for a
        broken one.
        """
        with torch.random.fork_rng(devices=[]):  # its first weights, soon gone, are drawn
            network = cls(Sizes.read(folder))
        try:
            found = network.load_state_dict(
                load_file(Path(folder) / "model.safetensors"), strict=False, assign=True
            )
        except RuntimeError as error:  # shapes, a line for each weight
            raise OSError(" ".join(str(error).split("\n\t")[:2])) from error
        for kind, names in (("missing", found.missing_keys), ("not known", found.unexpected_keys)):
            if names:
                raise OSError(
                    f"{len(names)} weights are {kind}, {min(names)} first: other code has written it"
                )
        return network.eval()

    def build(self) -> None:
        """Makes the modules, with torch's random weights."""
        c = self.config
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
        )
        self.text_head = TextHead(c.width, c.vocab_size)
        self.query_projection = nn.Linear(c.width, c.projection)
        self.text_projection = nn.Linear(c.width, c.projection)
        self.match_head = nn.Linear(c.width, 2)
        self.log_temperature = nn.Parameter(torch.tensor(c.temperature).log())
        self.image_generator = ImageGenerator(
            query_width=c.width,
            vision_width=c.vision_width,
            patches=c.vision_tokens - 1,
            queries=c.queries,
            code_width=c.code_width,
            codebook_size=c.codebook_size,
            decoder_channels=tuple(c.decoder_channels),
            image_channels=c.image_channels,
            norm=c.decoder_norm,
            decoder_shortcut=c.decoder_shortcut,
            adapter=c.adapter,
            adapter_blocks=c.adapter_blocks,
            bottom_latents=c.bottom_latents,
            codebook_start=c.codebook_start,
        )
        self._vision: tuple[FrozenViT, ...] = ()  # in a tuple: no part of this model's weights

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.log_temperature.device

    @property
    def temperature(self) -> torch.Tensor:
        """Tau of Eq. 10-11."""
        return self.log_temperature.exp()

    def read_image(self, features: torch.Tensor) -> list[torch.Tensor | None]:
        """Normalises the ViT's tokens and prepares them for cross-attention."""
        return self.qformer.read_image(self.normalise_tokens(features))

    def normalise_tokens(self, features: torch.Tensor) -> torch.Tensor:
        """The ViT's tokens (B, T, vision width), of mean 0 and variance 1 or what training made of that.

        In full precision, since much of a token may be the same in every image; only the outcome is rounded.
        """
        return for_products(self.vision_norm(features.to(self.vision_norm.weight.dtype)))

    @torch.no_grad()
    def see(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 224, 224) in [0, 1] -> the frozen ViT's tokens (B, 1 + patches, vision width), `features`.

        The ViT is loaded at the first call; tokens are rounded to half precision, as stored features are.
        Raises InputError when the ViT is not there, or is another than the one of the training.
        """
        if not self._vision:
            about = self.config.vision
            if about is None:
                raise InputError("config.json does not tell which ViT this model reads; give it `features`.")
            self._vision = (load_recorded_vision(about),)
        return self._vision[0].to(pixel_values.device)(pixel_values).half().float()

    def encode_image(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Query outputs f^q (B, Q, W), and their ITC embeddings (B, Q, P), L2-normalised (Eq. 8)."""
        queries, _ = self.qformer.encode_queries(self.read_image(features))
        return queries, F.normalize(self.query_projection(queries), dim=-1)

    def encode_text(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output of [CLS] (B, W), and its ITC embedding (B, P), L2-normalised (Eq. 9)."""
        text = self.qformer.encode_text(input_ids, attention_mask)
        return text, F.normalize(self.text_projection(text), dim=-1)

    def read_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Outputs of all tokens (B, L, W), [CLS] first: what a prior of the codes is conditioned on."""
        return self.qformer.encode_tokens(input_ids, attention_mask)

    def match(
        self, features: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Logits (B, 2) of (not matched, matched), averaged over the queries (Eq. 14)."""
        return self.match_head(self.qformer.fuse(self.read_image(features), input_ids, attention_mask)).mean(
            1
        )

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
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
        """Reports: ids (B, L), L up to max_new_tokens, [SEP] at the end of each, then padding.

        Args:
            features: image tokens (B, T, vision width).
            num_beams: 1: greedy, or drawn with `do_sample`; more: `beam_search`, with `length_penalty`.
            temperature, top_k, top_p: what is drawn from; see `keep_likely`. generator: where the draws come from.
            max_new_tokens: [SEP] included; None: as long as the positions reach.
            use_cache: keep the keys and values of earlier words, so that a step computes one word; the words do
                not depend on it.

        Raises:
            ValueError: `do_sample` with beams; `max_new_tokens` below 1.
        """
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ValueError(f"generate: max_new_tokens is {max_new_tokens}; at least 1, or None")
        if do_sample and num_beams > 1:
            raise ValueError("generate: either do_sample or num_beams > 1, not both")
        c = self.config
        _, queries = self.qformer.encode_queries(self.read_image(features))
        if num_beams > 1:
            rows = torch.arange(len(features), device=features.device).repeat_interleave(num_beams)
            queries = [kv.take(rows) for kv in queries]
        length = min(max_new_tokens or c.max_text_tokens, c.max_text_tokens)
        decoder = NextWord(self, queries, room=length, use_cache=use_cache)
        first = torch.full((len(features), 1), c.decode_token_id, device=features.device)
        common = {"max_new_tokens": length, "end": c.sep_token_id, "pad": c.pad_token_id}
        if num_beams > 1:
            return beam_search(decoder, first, num_beams=num_beams, length_penalty=length_penalty, **common)
        how = {"do_sample": do_sample, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        return choose_words(decoder, first, generator=generator, **how, **common)

    def reconstruct(
        self, features: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Images (B, image channels, 224, 224) in [0, 1] drawn from the codes of these (Eq. 22)."""
        return self._generate(features, input_ids, attention_mask).images.clamp(0, 1)

    def encode_codes(
        self, features: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of both levels, row by row: top (B, 64), bottom (B, 256)."""
        queries, _ = self.encode_image(features)
        text, _ = self.encode_text(input_ids, attention_mask)
        top, bottom, _ = self.image_generator.quantize(queries, self.normalise_tokens(features)[:, 1:], text)
        return top.codes.flatten(1), bottom.codes.flatten(1)

    def decode_codes(self, top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
        """Codes (B, 64) and (B, 256) -> images (B, image channels, 224, 224) in [0, 1]."""
        return self.image_generator.decode(
            top.unflatten(1, (8, 8)).long(), bottom.unflatten(1, (16, 16)).long()
        )

    def _generate(self, features: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> Generated:
        queries, _ = self.encode_image(features)
        text, _ = self.encode_text(ids, mask)
        return self.image_generator(queries, self.normalise_tokens(features)[:, 1:], text)
