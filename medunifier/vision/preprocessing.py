"""How pixels become the input of an image encoder: size, interpolation, centre crop, mean and deviation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from medunifier.data.resizing import KERNELS, resize_grey
from medunifier.runtime.errors import InputError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
PLAIN = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PILLOW_FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}  # `resample` in JSON
LARGEST = 4096  # pixels: beyond any encoder


@dataclass(frozen=True)
class Preprocessing:
    """What an encoder's own processor does with an image.

    Attributes:
        size: height and width in pixels that the encoder reads.
        resized: height and width before the centre crop; equal to `size`: no crop.
        interpolation: see `resize_grey`.
        mean: subtracted from pixels in [0, 1], by channel; one channel for encoders of grey images.
        std: divides what is left, by channel.
    """

    size: tuple[int, int]
    resized: tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        sides = (*self.size, *self.resized)
        if not all(isinstance(side, int) and 0 < side <= LARGEST for side in sides):
            raise InputError(
                f"the encoder's preprocessing reads images of {self.size}; expected 1 to {LARGEST}"
            )
        if any(whole < read for whole, read in zip(self.resized, self.size, strict=True)):
            raise InputError(f"the encoder's preprocessing crops {self.size} out of {self.resized} pixels")
        if self.interpolation not in KERNELS:
            raise InputError(
                f"the encoder's interpolation is {self.interpolation!r}; known: {', '.join(KERNELS)}"
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or not all(self.std):
            raise InputError(
                f"the encoder's mean is {self.mean}, its deviation {self.std}; expected 1 or 3 values each, "
                "deviations other than 0"
            )

    @property
    def channels(self) -> int:
        """Number of channels that the encoder reads: 1 or 3."""
        return len(self.mean)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Prepare images.

        Args:
            pixels: (B, 3, H, W) in [0, 1], three equal channels. Images that are resized count as 8-bit ones.

        Returns:
            The encoder's input, float32 (B, channels, height, width).
        """
        # Where the channels are one in memory, as those of a grey image that was expanded, it is resized once for all.
        pixels = pixels[:, : 1 if pixels.stride(1) == 0 else self.channels].float()
        if pixels.shape[-2:] != self.resized:
            pixels = resize_grey(pixels * 255, self.resized, self.interpolation) / 255
        top, left = ((whole - read) // 2 for whole, read in zip(self.resized, self.size, strict=True))
        pixels = pixels[..., top : top + self.size[0], left : left + self.size[1]]
        mean, std = (
            torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std)
        )
        return (pixels - mean) / std

    def adapted(self, pixels: str, size: int | None, crop: str) -> "Preprocessing":
        """Return a copy as `vision.pixels`, `vision.size` and `vision.crop` ask for it."""
        read = self.size if size is None else (size, size)
        whole = read
        if crop == "model":
            whole = tuple(
                round(new * before / old)
                for new, before, old in zip(read, self.resized, self.size, strict=True)
            )
        zero, one = (0.0,) * self.channels, (1.0,) * self.channels
        mean, std = (zero, one) if pixels == "unit" else (self.mean, self.std)
        return Preprocessing(read, (whole[0], whole[1]), self.interpolation, mean, std)

    def record(self) -> dict[str, Any]:
        """Return the preprocessing as JSON, for manifests and the model's configuration."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }


def whole_images(
    size: tuple[int, int], values: Sequence[Sequence[float]], interpolation: str
) -> Preprocessing:
    """Return the preprocessing of an encoder that reads whole images of one size; `values`: mean and deviation."""
    return Preprocessing(size, size, interpolation, tuple(values[0]), tuple(values[1]))


def from_processor(settings: Mapping[str, Any], source: str | Path) -> Preprocessing:
    """Read the settings of a transformers image processor, complete, as preprocessor_config.json holds them.

    Raises:
        InputError: they ask for what is not understood here.
    """
    try:
        resized = _sides(settings["size"])
        cropped = settings.get("do_center_crop") and settings.get("crop_size")
        size = _sides(cropped) if cropped else resized
        if settings.get("crop_pct") and not cropped and resized[0] < 384:  # ConvNeXt's own rule
            resized = (int(resized[0] / settings["crop_pct"]), int(resized[1] / settings["crop_pct"]))
        # A crop may be larger than the image only where nothing is resized; images are resized to fit here.
        resized = (max(resized[0], size[0]), max(resized[1], size[1]))
        scale = (
            255.0 * float(settings.get("rescale_factor", 1 / 255))
            if settings.get("do_rescale", True)
            else 255.0
        )
        channels = len(settings.get("image_mean") or (0, 0, 0))
        mean, std = (0.0,) * channels, (1.0,) * channels
        if settings.get("do_normalize", True):
            mean, std = (tuple(map(float, settings[name])) for name in ("image_mean", "image_std"))
        interpolation = PILLOW_FILTERS[int(settings.get("resample", 3))]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source}: not understood as the preprocessing of images ({error!r})") from error
    if abs(scale - 1) > 1e-3:  # 1 / 255 is written with more or fewer digits
        mean, std = (tuple(value / scale for value in values) for values in (mean, std))
    return Preprocessing(size, resized, interpolation, mean, std)


def _sides(size: Any) -> tuple[int, int]:
    """Return height and width of `size` as processors write it; radiographs are stored as squares."""
    if isinstance(size, int):
        return size, size
    if "height" in size:
        return int(size["height"]), int(size["width"])
    return int(size["shortest_edge"]), int(size["shortest_edge"])
