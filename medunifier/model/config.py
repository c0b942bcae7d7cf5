"""What MedUnifier's network is made of."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

MODEL_TYPE = "medunifier"  # as transformers has it in config.json


@dataclass(kw_only=True)
class Sizes:
    """Sizes of the network; the defaults are the paper's (section 4.1, appendix 2).

    Args:
        vision_width: width of the frozen ViT's tokens. vision_tokens: their number, [CLS] included.
        width, layers, heads, queries, cross_attention_every, dropout: see `QFormer`.
        vocab_size, max_text_tokens: of the tokenizer; of the longest report, special token included.
        projection: width of the ITC embeddings. temperature: ITC's, at the start.
        temperature_range: where it is kept; None: anywhere. negatives: `global` or `local` (of one process alone).
        equal_reports: of two pairs, in ITM: `apart`, no negatives of each other, or `negatives`.
        codebook_size, codebook_start, code_width, adapter, adapter_blocks, bottom_latents, decoder_channels,
        decoder_norm, decoder_shortcut, image_channels: see `ImageGenerator`.
        codebook_weight, commitment: of the two terms of Eq. 23 behind the squared error.
        decode_token_id: [DEC].
        vision: the frozen ViT whose tokens it was trained on: `model, revision, skip_last_blocks, checksum` of the
            feature manifest; None: not known.
    """

    vision_width: int = 1408
    vision_tokens: int = 257
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
    bottom_latents: str = "joined"
    decoder_channels: tuple[int, ...] | list[int] = (1536, 768, 768)
    decoder_norm: str = "group"
    decoder_shortcut: bool = True
    image_channels: int = 3
    pad_token_id: int = 0
    cls_token_id: int = 2
    sep_token_id: int = 3
    decode_token_id: int = 30522
    initializer_range: float = 0.02
    vision: dict | None = None

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Those of a saved model's config.json, which `MedUnifierConfig.save_pretrained` wrote.

        Raises OSError if the file is missing or is another.
        """
        path = Path(folder) / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OSError(f"{path.name} is no JSON: {error}") from error
        if not isinstance(values, dict) or values.get("model_type") != MODEL_TYPE:
            raise OSError(f"{path.name} is not of a {MODEL_TYPE} model")
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
