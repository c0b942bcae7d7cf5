"""Sizes and choices of MedUnifier's network."""

import math
from dataclasses import dataclass
from typing import Any

from medunifier.runtime.errors import InputError

# Largest sensible values, beyond which config.json is damaged or hostile: building such a network would fill the memory.
LARGEST = {
    "vision_width": 65_536, "vision_tokens": 65_536, "width": 65_536, "layers": 1000, "heads": 1000, "queries": 65_536,
    "cross_attention_every": 1000, "vocab_size": 10_000_000, "max_text_tokens": 4096, "projection": 65_536,
    "codebook_size": 65_536, "code_width": 65_536, "adapter_blocks": 1000, "image_channels": 3,
}  # fmt: skip
CHOICES = {
    "negatives": ("global", "local"),
    "equal_reports": ("apart", "negatives"),
    "vision_position": ("none", "sinusoidal"),
    "codebook_start": ("data", "uniform"),
    "adapter": ("unit_length", "rectified"),
    "adapter_residual": ("plain", "batch_norm"),
    "adapter_position": ("learnt", "sinusoidal"),
    "bottom_latents": ("joined", "concatenated"),
    "decoder_kind": ("tapered", "deconvolutional", "residual"),
    "decoder_norm": ("group", "batch"),
}
BELOW = {"dropout": 1.0, "temperature": 1000.0, "label_smoothing": 1.0} | dict.fromkeys(
    ("codebook_weight", "commitment", "initializer_range"), 1e6
)
MODEL_TYPE = "medunifier"  # `model_type` in config.json of transformers


@dataclass(kw_only=True)
class Sizes:
    """Sizes and choices of the network.

    The defaults of the sizes are the paper's (section 4.1, appendix 2). Those of the choices are not: a model folder that
    was saved before a choice existed means its default, so that a default is never changed.

    Args:
        vision_width: width of the image features. vision_tokens: tokens per image, [CLS] included. vision_grid: rows
            and columns of the others; None: a square.
        vision_position: spatial positions added to what the Q-Former reads of an image: `none`, or `sinusoidal`, those of
            `sinusoidal_positions` on its grid. The tokens of a ViT hold their places, the feature maps of a CNN do not.
        width, layers, heads, queries, cross_attention_every, dropout: see `QFormer`.
        vocab_size: entries of the tokenizer. max_text_tokens: longest report in tokens, first token included.
        projection: width of the ITC embeddings.
        temperature: initial temperature of ITC. temperature_range: its limits; None: no limits.
        negatives: of ITC and ITM: `global`, from the batch of all processes, or `local`, of one process.
        equal_reports: pairs with the same report, in ITM: `apart`, never negatives of each other, or `negatives`.
        label_smoothing: of ITC and ITG, 0 to 1.
        codebook_size, codebook_start, code_width, adapter, adapter_blocks, adapter_residual, adapter_position,
        bottom_latents, decoder_kind, decoder_channels, decoder_norm, decoder_shortcut, image_channels: see `ImageGenerator`.
        codebook_weight, commitment: weights of the codebook and the commitment term of Eq. 23.
        pad_token_id, cls_token_id, sep_token_id, decode_token_id: of [PAD], [CLS], [SEP], [DEC].
        initializer_range: standard deviation of the initial weights of the Q-Former and the heads.
        vision: the frozen encoder that the model was trained with, and how its pixels were prepared, as in the feature
            manifest; None: unknown.
    """

    vision_width: int = 1408
    vision_tokens: int = 257
    vision_grid: tuple[int, int] | list[int] | None = None
    vision_position: str = "none"
    width: int = 768
    layers: int = 12
    heads: int = 12
    queries: int = 32
    cross_attention_every: int = 1
    dropout: float = 0.1
    vocab_size: int = 30523
    max_text_tokens: int = 95
    projection: int = 256
    temperature: float = 0.07
    temperature_range: tuple[float, ...] | list[float] | None = (0.01, 0.5)
    negatives: str = "global"
    equal_reports: str = "apart"
    label_smoothing: float = 0.0
    codebook_size: int = 512
    codebook_start: str = "data"
    code_width: int = 768
    codebook_weight: float = 1.0
    commitment: float = 0.5
    adapter: str = "unit_length"
    adapter_blocks: int = 1
    adapter_residual: str = "plain"
    adapter_position: str = "learnt"
    bottom_latents: str = "joined"
    decoder_kind: str = "tapered"
    decoder_channels: tuple[int, ...] | list[int] = (1536, 768, 768)
    decoder_norm: str = "group"
    decoder_shortcut: bool = True
    image_channels: int = 3
    pad_token_id: int = 0
    cls_token_id: int = 2
    sep_token_id: int = 3
    decode_token_id: int = 30522
    initializer_range: float = 0.02
    vision: dict[str, Any] | None = None


def check_sizes(sizes: Sizes) -> None:
    """Check the sizes of a network before it is built, since config.json may come from anywhere.

    Raises:
        InputError: names the first value of a wrong type or beyond its limits, and what is allowed.
    """
    for name, largest in LARGEST.items():
        value = getattr(sizes, name)
        if type(value) is not int or not 1 <= value <= largest:
            raise InputError(
                f"config.json of the model: {name} is {value!r}; expected a whole number of 1 to {largest}"
            )
    for name, allowed in CHOICES.items():
        if getattr(sizes, name) not in allowed:
            raise InputError(
                f"config.json of the model: {name} is {getattr(sizes, name)!r}; expected {' or '.join(allowed)}"
            )
    channels = sizes.decoder_channels
    if not isinstance(channels, list | tuple) or not all(
        type(c) is int and 1 <= c <= 65_536 for c in channels
    ):
        raise InputError(
            f"config.json of the model: decoder_channels is {channels!r}; expected whole numbers above 0"
        )
    if sizes.width % sizes.heads:
        raise InputError(
            f"config.json of the model: width is {sizes.width}; expected a multiple of the {sizes.heads} heads"
        )
    for name, above in BELOW.items():
        if not _is_number(value := getattr(sizes, name)) or value >= above:
            raise InputError(
                f"config.json of the model: {name} is {value!r}; expected a number of 0 to below {above:g}"
            )
    for name in ("pad_token_id", "cls_token_id", "sep_token_id", "decode_token_id"):
        if type(value := getattr(sizes, name)) is not int or not 0 <= value < LARGEST["vocab_size"]:
            raise InputError(f"config.json of the model: {name} is {value!r}; expected the number of a token")
    for name, valid, expected in (
        ("decoder_shortcut", lambda value: isinstance(value, bool), "true or false"),
        (
            "temperature_range",
            lambda value: value is None or _is_range(value),
            "null, or a lower and an upper limit",
        ),
        ("vision_grid", lambda value: value is None or _is_grid(value), "null, or rows and columns"),
        ("vision", lambda value: isinstance(value, dict | None), "null, or a mapping"),
    ):
        if not valid(value := getattr(sizes, name)):
            raise InputError(f"config.json of the model: {name} is {value!r}; expected {expected}")


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number of at least 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_range(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
    return pair and 0 < value[0] < value[1]


def _is_grid(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(type(n) is int and 0 < n < 65_536 for n in value)
    )
