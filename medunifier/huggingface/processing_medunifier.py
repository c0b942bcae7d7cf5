"""Images and texts as a MedUnifier takes them, in transformers' form.

Importing this registers the model, too. The stages do without it: transformers' base classes of processors bring
torchvision along, seconds of start-up that a stage reading stored features does not need.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, BatchFeature, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ProcessorMixin

from medunifier.data.tokenizer import decode, tokenize
from medunifier.huggingface.modeling_medunifier import MedUnifierConfig

ImageInput = str | PathLike | Image.Image


class MedUnifierImageProcessor(BaseImageProcessor):
    """Radiographs as stage decode_images decodes them: grey, square, values in [0, 1], three equal channels.

    Args:
        size: pixels, height = width. aspect: `squash`, `pad` or `crop` for an image that is not square.
    """

    model_input_names: ClassVar = ["pixel_values"]

    def __init__(self, size: int = 224, aspect: str = "squash", **kwargs: Any):
        super().__init__(**kwargs)
        self.size, self.aspect = size, aspect

    def __call__(self, images: ImageInput | Sequence[ImageInput], **_: Any) -> BatchFeature:
        """Files (JPEG, PNG, DICOM) or PIL images -> pixel_values (B, 3, size, size)."""
        from medunifier.data.image_decoding import decode_image, grey, square

        if isinstance(images, ImageInput):
            images = [images]
        decoded = [
            square(grey(image), self.size, self.aspect)
            if isinstance(image, Image.Image)
            else decode_image(image, self.size, self.aspect)
            for image in images
        ]
        pixels = torch.stack([torch.from_numpy(image) for image in decoded])[:, None]  # (B, 1, H, W)
        return BatchFeature({"pixel_values": pixels.expand(-1, 3, -1, -1).float() / 255})


class MedUnifierProcessor(ProcessorMixin):
    """Image processor and tokenizer behind one call.

    Args:
        max_text_tokens: tokens of a text, [CLS] and [SEP] included; the rest is cut.
    """

    def __init__(
        self,
        image_processor: MedUnifierImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        max_text_tokens: int = 95,
        **kwargs: Any,
    ):
        super().__init__(image_processor, tokenizer, **kwargs)
        self.max_text_tokens = max_text_tokens

    def __call__(
        self, images: ImageInput | Sequence[ImageInput] | None = None, text: str | Sequence[str] | None = None
    ) -> BatchFeature:
        """`pixel_values` of images and `input_ids`, `attention_mask` of texts, whichever are given."""
        batch = BatchFeature() if images is None else self.image_processor(images)
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            batch["input_ids"], batch["attention_mask"] = tokenize(
                self.tokenizer, texts, self.max_text_tokens
            )
        return batch

    def batch_decode(self, ids: torch.Tensor) -> list[str]:
        """Ids (B, L) of `generate` -> texts, up to the first [SEP]."""
        return decode(self.tokenizer, ids)


AutoImageProcessor.register(MedUnifierConfig, image_processor_classes={"pil": MedUnifierImageProcessor})
AutoProcessor.register(MedUnifierConfig, MedUnifierProcessor)
