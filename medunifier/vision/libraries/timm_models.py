"""Image encoders of timm: ViTs with or without class and register tokens, and CNNs by their levels."""

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config

from medunifier.runtime.errors import InputError
from medunifier.vision.feature_maps import (
    FeatureMaps,
    LoadedEncoder,
    Network,
    chosen_levels,
    joined,
    maps_of_tokens,
    no_levels,
)
from medunifier.vision.preprocessing import Preprocessing


def load_timm(name: str, size: int | None, levels: tuple[int, ...]) -> LoadedEncoder:
    """Load an encoder of timm.

    Args:
        name: as `timm.create_model` takes it: NAME, hf-hub:NAME@COMMIT or local-dir:FOLDER.
        size: height and width that a ViT is to read, where not its own; its position embeddings are resized.
        levels: strides of the levels of a CNN; (): the deepest.

    Raises:
        InputError: the model has no feature maps or no such level.
    """
    network: Network = timm.create_model(name, pretrained=True, num_classes=0)
    if not is_vit(network):
        return _cnn(name, levels, network)
    no_levels(levels, name)
    if size is not None and _sides(network) != (size, size):
        network = timm.create_model(name, pretrained=True, num_classes=0, img_size=size)
    return LoadedEncoder(network.eval(), encode_vit, preprocessing(network))


def is_vit(network: Network) -> bool:
    """Return whether a model of timm gives tokens (B, T, width)."""
    return hasattr(network, "num_prefix_tokens") and hasattr(network, "patch_embed")


def encode_vit(network: Network, pixels: torch.Tensor) -> FeatureMaps:
    """Encode images with a ViT of timm."""
    tokens = network.forward_features(pixels)
    has_class = getattr(network, "cls_token", None) is not None
    maps = maps_of_tokens(tokens, network.num_prefix_tokens, has_class, pixels)
    pooled = getattr(network, "attn_pool", None)
    if has_class or pooled is None:
        return maps
    whole = network.forward_head(tokens, pre_logits=True)  # SigLIP's attention pooling
    return maps if whole.shape != maps.grid.shape[:2] else maps._replace(whole=whole)


def _cnn(name: str, levels: tuple[int, ...], whole: Network) -> LoadedEncoder:
    """Load a CNN (or a hierarchical transformer) of timm as its feature maps."""
    try:
        with _without_head():
            every: Network = timm.create_model(name, pretrained=True, features_only=True)
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        raise InputError(
            f"vision.model: {name!r} is neither a ViT nor a model with timm's features_only: {str(error)[:200]}"
        ) from error
    wanted = chosen_levels(every.feature_info.reduction(), levels, name)
    with _without_head():
        network: Network = timm.create_model(
            name,
            pretrained=True,
            features_only=True,
            out_indices=[every.feature_info.out_indices[i] for i in wanted],
        )

    def encode(network: Network, pixels: torch.Tensor) -> FeatureMaps:
        maps = network(pixels)
        if str(getattr(whole, "output_fmt", "NCHW")).endswith("NHWC"):
            maps = [level.permute(0, 3, 1, 2) for level in maps]
        return FeatureMaps(None, joined(maps))

    return LoadedEncoder(network.eval(), encode, preprocessing(whole))


@contextlib.contextmanager
def _without_head() -> Iterator[None]:
    """Keep timm from warning of the weights that its `features_only` leaves out: those of the head, as they must be."""
    logger = logging.getLogger("timm.models._builder")

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Unexpected keys")

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def preprocessing(network: Network) -> Preprocessing:
    """Return the preprocessing of a model of timm, by its `pretrained_cfg` as timm resolves it."""
    settings: dict[str, Any] = resolve_model_data_config(network)
    size = _sides(network) or (int(settings["input_size"][-2]), int(settings["input_size"][-1]))
    crop = float(settings.get("crop_pct") or 1.0)
    resized = (math.floor(size[0] / crop), math.floor(size[1] / crop))
    return Preprocessing(
        size, resized, settings["interpolation"], tuple(settings["mean"]), tuple(settings["std"])
    )


def _sides(network: Network) -> tuple[int, int] | None:
    """Return the height and width that a ViT was built for."""
    sides = getattr(getattr(network, "patch_embed", None), "img_size", None)
    return None if sides is None else (int(sides[0]), int(sides[1]))
