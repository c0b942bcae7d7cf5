"""Radiographs as the model's pixel values, in transformers' form."""

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from medunifier.data.image_decoding import decode_image, grey, square
from medunifier.huggingface.configuration_medunifier import MedUnifierConfig

ImageInput = str | PathLike[str] | Image.Image


class MedUnifierImageProcessor(BaseImageProcessor):
    """Decode radiographs as stage decode_images does: grey, square, values in [0, 1], three equal channels.

    What the frozen encoder wants beyond that (its own size, mean and deviation) is done by
    `MedUnifierModel.extract_features`, as config.json records it: pixels are never normalised twice.

    Args:
        size: pixels, height = width. aspect: `squash`, `pad` or `crop` for an image that is not square.
        bits: range of an image of more than 8 bits that becomes 0 to 1, of the bits `declared` or `used`.
    """

    model_input_names: ClassVar = ["pixel_values"]

    def __init__(self, size: int = 224, aspect: str = "squash", bits: str = "used", **kwargs: Any):
        super().__init__(**kwargs)
        self.size, self.aspect, self.bits = size, aspect, bits

    # Files are inputs here, and tensors are none: narrower than transformers' own processors.
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images: ImageInput | Sequence[ImageInput], **_: Any
    ) -> BatchFeature:
        """Decode files (JPEG, PNG, DICOM) or PIL images to `pixel_values` (B, 3, size, size).

        Raises:
            UnreadableImage: a file cannot be decoded.
        """
        if isinstance(images, str | PathLike | Image.Image):
            images = [images]
        decoded = [
            square(grey(image, self.bits), self.size, self.aspect)
            if isinstance(image, Image.Image)
            else decode_image(fspath(image), self.size, self.aspect, self.bits)
            for image in images
        ]
        pixels = torch.stack([torch.from_numpy(image) for image in decoded])[:, None]  # (B, 1, size, size)
        return BatchFeature({"pixel_values": pixels.expand(-1, 3, -1, -1).float() / 255})


# The same class for both backends: it needs neither, and a missing one would be warned about.
AutoImageProcessor.register(
    MedUnifierConfig,
    image_processor_classes={"pil": MedUnifierImageProcessor, "torchvision": MedUnifierImageProcessor},
)
