"""Images and texts as the model takes them, in transformers' form.

The stages do without this module: transformers' base classes of processors import torchvision, seconds that a stage
which reads stored features does not need.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from medunifier.data.tokenizer import decode, tokenize
from medunifier.huggingface.configuration_medunifier import MedUnifierConfig
from medunifier.huggingface.image_processing_medunifier import ImageInput, MedUnifierImageProcessor


class MedUnifierProcessor(ProcessorMixin):
    """Image processor and tokenizer in one call.

    Args:
        max_text_tokens: longest text in tokens, [CLS] and [SEP] included; the rest is cut.
    """

    image_processor: MedUnifierImageProcessor
    tokenizer: PreTrainedTokenizerBase

    def __init__(
        self,
        image_processor: MedUnifierImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        max_text_tokens: int = 95,
        **kwargs: Any,
    ):
        super().__init__(image_processor, tokenizer, **kwargs)
        self.max_text_tokens = max_text_tokens

    # Images are files or PIL images, and there is no video or audio: narrower than transformers' own processors.
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images: ImageInput | Sequence[ImageInput] | None = None, text: str | Sequence[str] | None = None
    ) -> BatchFeature:
        """Return `pixel_values` (B, 3, H, W) of images and `input_ids`, `attention_mask` (B, L) of texts.

        Raises:
            UnreadableImage: a file cannot be decoded.
        """
        batch = BatchFeature() if images is None else self.image_processor(images)
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            batch["input_ids"], batch["attention_mask"] = tokenize(
                self.tokenizer, texts, self.max_text_tokens
            )
        return batch

    def decode(self, ids: torch.Tensor) -> str:
        """Return the text of one row of generated ids (L,), up to its first [SEP]."""
        return decode(self.tokenizer, ids[None])[0]

    def batch_decode(self, ids: torch.Tensor) -> list[str]:
        """Return the texts of generated ids (B, L), each up to its first [SEP]."""
        return decode(self.tokenizer, ids)


AutoProcessor.register(MedUnifierConfig, MedUnifierProcessor)
