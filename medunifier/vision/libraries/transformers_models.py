"""Image encoders of transformers: the vision part of a model, and its image processor's settings."""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, Blip2VisionModel, PreTrainedConfig
from transformers.utils.hub import cached_file

from medunifier.runtime.errors import InputError
from medunifier.runtime.json_files import read_json_object
from medunifier.runtime.pretrained import load_pretrained
from medunifier.vision.feature_maps import FeatureMaps, LoadedEncoder, Network, maps_of_tokens, no_levels
from medunifier.vision.preprocessing import Preprocessing, from_processor, whole_images

CLASS_TOKENS = ("cls_token", "class_embedding", "class_token")
MORE_TOKENS = ("distillation_token", "register_tokens")
NEEDED = ("do_normalize", "image_mean", "image_std", "size", "resample")  # of a processor's settings
POOLERS = ("pooler", "head")
BLOCK = re.compile(r"(^|\.)(layers?|blocks|stages)\.\d+\.")


def load_transformers(name: str, revision: str | None, levels: tuple[int, ...], pixels: str) -> LoadedEncoder:
    """Load the vision part of a model of transformers.

    Args:
        name: hub name or folder.
        revision: commit of a hub model.
        levels: must be (): CNNs of transformers give their deepest level.
        pixels: `vision.pixels`; with `unit` the settings of a processor are not needed.

    Raises:
        InputError: weights or the processor's settings are missing, or config.json is of a network with fewer blocks.
    """
    no_levels(levels, name)
    settings, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    kind = str(settings.get("model_type", "")).replace("-", "_")
    if kind in ("siglip2", "siglip2_vision_model"):
        raise InputError(
            f"vision.model: {name!r} is a SigLIP 2 for images of any shape (NaFlex), which reads patches; choose one "
            "for a fixed size, such as google/siglip2-base-patch16-224"
        )
    options = {"revision": revision or "main", "output_loading_info": True}
    if kind.startswith(
        "blip_2"
    ):  # the whole of BLIP-2, or its vision part alone, which the Auto classes do not know
        network, info = load_pretrained(Blip2VisionModel, name, **options)
    else:
        network, info = load_pretrained(AutoModel, name, **options)
    missing = [key for key in info["missing_keys"] if not _of_text(key, network)]
    network = getattr(network, "vision_model", network)
    has_class = _has_parameter(network, CLASS_TOKENS)
    _drop_poolers(network, has_class, missing)
    missing = [key for key in missing if not any(f".{name}." in f".{key}" for name in POOLERS)]
    if missing:
        raise InputError(
            f"vision.model: {name!r} lacks {len(missing)} weights of its {type(network).__name__}, {min(missing)} "
            "first; they would be random. Is it the checkpoint of another model?"
        )
    strangers = [] if kind.startswith("blip_2") else sorted(filter(BLOCK.search, info["unexpected_keys"]))
    if strangers:
        raise InputError(
            f"vision.model: {name!r} has {len(strangers)} weights of blocks that its config.json does not have, "
            f"{strangers[0]} first"
        )
    found = _preprocessing(name, revision, network, pixels)
    return LoadedEncoder(network.eval(), _encoder(network, has_class), found)


def _of_text(key: str, network: nn.Module) -> bool:
    return hasattr(network, "vision_model") and not key.startswith("vision_model.")


def _drop_poolers(network: Network, has_class: bool, missing: Iterable[str]) -> None:
    """Remove a pooler that is not used or not in the checkpoint: its weights would be random, and so the checksum."""
    for name in POOLERS:
        pooler = getattr(network, name, None)
        absent = any(f".{name}." in f".{key}" for key in missing)
        if isinstance(pooler, nn.Module) and (has_class or absent):
            setattr(network, name, None)
            if hasattr(network, f"use_{name}"):
                setattr(network, f"use_{name}", False)


def _has_parameter(network: nn.Module, names: Iterable[str]) -> bool:
    return any(key.rpartition(".")[2] in names for key, _ in network.named_parameters())


def _encoder(network: nn.Module, has_class: bool) -> Any:
    """Return the function that encodes images with this network."""
    more = sum(
        parameter.shape[1]
        for key, parameter in network.named_parameters()
        if key.rpartition(".")[2] in MORE_TOKENS
    )
    prefix = int(has_class) + more
    resizes = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters

    def encode(network: Network, pixels: torch.Tensor) -> FeatureMaps:
        options = {}
        if resizes and _image_sides(network) not in (None, tuple(pixels.shape[-2:])):
            options["interpolate_pos_encoding"] = True
        output = network(pixel_values=pixels, **options)
        features = output.last_hidden_state
        if features.ndim == 4:  # a CNN
            maps = FeatureMaps(None, features)
        else:
            maps = maps_of_tokens(features, prefix, has_class, pixels)
        pooled = None if has_class else getattr(output, "pooler_output", None)
        if pooled is not None and pooled.flatten(1).shape == maps.grid.shape[:2]:
            maps = maps._replace(whole=pooled.flatten(1))
        return maps

    return encode


def _image_sides(network: Network) -> tuple[int, int] | None:
    """Return the height and width of the images in the model's configuration."""
    size = getattr(network.config, "image_size", None)
    if isinstance(size, int):
        return size, size
    return None if size is None else (int(size[0]), int(size[1]))


def _preprocessing(name: str, revision: str | None, network: Network, pixels: str) -> Preprocessing:
    """Return the preprocessing of a model; without a file about it, that of `vision.pixels: unit`."""
    settings = read_processor(name, revision)
    if settings is not None:
        return from_processor(settings, name)
    if pixels != "unit":
        raise InputError(
            f"vision.model: {name!r} has no preprocessor_config.json, so that nobody knows how to prepare its pixels; put "
            "the file of the original model there, or set vision.pixels: unit for pixels in [0, 1], not normalised"
        )
    return whole_images(_image_sides(network) or (224, 224), ((0.0,) * 3, (1.0,) * 3), "bicubic")


def read_processor(name: str, revision: str | None = None) -> Mapping[str, Any] | None:
    """Return the settings of a model's image processor; None if there are none.

    What an older file leaves out is the default of the processor's class. That class is imported only then: it takes
    seconds.
    """
    for file in ("preprocessor_config.json", "processor_config.json"):
        path = cached_file(
            name,
            file,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is None:
            continue
        settings = read_json_object(path)
        settings = settings.get("image_processor", settings)
        if not isinstance(settings, dict) or not any(key in settings for key in NEEDED):
            raise InputError(
                f"{path}: does not tell how images are prepared (none of {', '.join(NEEDED)}); put the file of the "
                "original model there"
            )
        if all(key in settings for key in NEEDED) or (
            settings.get("do_normalize") is False and "size" in settings
        ):
            return settings
        from transformers import AutoImageProcessor

        whole = load_pretrained(AutoImageProcessor, name, revision=revision or "main")
        return {**whole.to_dict(), **settings}
    return None
