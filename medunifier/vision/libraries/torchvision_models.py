"""Image encoders of torchvision, and those of torchxrayvision, which are torchvision's with one input channel."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models import DenseNet, VisionTransformer

from medunifier.runtime.errors import InputError
from medunifier.storage.weights import read_weights
from medunifier.vision.feature_maps import (
    FeatureMaps,
    LoadedEncoder,
    Network,
    chosen_levels,
    joined,
    maps_of_tokens,
    no_levels,
)
from medunifier.vision.preprocessing import IMAGENET, Preprocessing, whole_images

HEADS = ("fc", "classifier", "heads", "head")
# torchxrayvision's `normalize` maps 0 to 255 to -1024 to 1024: mean and deviation of the same in [0, 1].
XRV = ((0.5,), (1 / 2048,))
XRV_SIZES = {"res224": 224, "res512": 512}


def load_torchvision(name: str, weights: str | None, levels: tuple[int, ...]) -> LoadedEncoder:
    """Load an encoder of torchvision by name, with weights that torchvision downloads.

    Args:
        name: as `torchvision.models.get_model` takes it.
        weights: name of the weights, for example IMAGENET1K_V1.
        levels: strides of the levels of a CNN; (): the deepest.

    Raises:
        InputError: there is no such model, or no such weights.
    """
    try:
        known = torchvision.models.get_model_weights(name)
        chosen = known[weights or "DEFAULT"]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"vision.model: torchvision has no {name!r} with weights {weights!r}: {error}"
        ) from error
    network = torchvision.models.get_model(name, weights=None)
    network.load_state_dict(chosen.get_state_dict(progress=False, check_hash=True, weights_only=True))
    own = chosen.transforms()
    size, resized = int(own.crop_size[0]), int(own.resize_size[0])
    found = Preprocessing(
        (size, size), (resized, resized), own.interpolation.value, tuple(own.mean), tuple(own.std)
    )
    return _encoder(network, levels, name, found)


def load_folder(folder: Path, config: dict[str, Any], levels: tuple[int, ...]) -> LoadedEncoder:
    """Load a folder with config.json {"torchvision": NAME} or {"torchxrayvision": NAME} and model.safetensors.

    Args:
        folder: of the model.
        config: the content of config.json; `size`, `mean`, `std` and `interpolation` where they are not ImageNet's or
            torchxrayvision's.
        levels: strides of the levels of a CNN; (): the deepest.

    Raises:
        InputError: there is no such model, or the weights are not its own.
    """
    grey = "torchxrayvision" in config
    name = str(config["torchxrayvision" if grey else "torchvision"])
    network = build(name.split("-")[0], grey)
    load_own_weights(network, folder)
    default_size = next((size for part, size in XRV_SIZES.items() if part in name), 224) if grey else 224
    mean, std = XRV if grey else IMAGENET
    size = int(config.get("size", default_size))
    values = (config.get("mean", mean), config.get("std", std))
    return _encoder(
        network, levels, name, whole_images((size, size), values, config.get("interpolation", "bilinear"))
    )


def build(architecture: str, grey: bool) -> nn.Module:
    """Return a model of torchvision with random weights; `grey`: its first convolution reads one channel.

    Raises:
        InputError: torchvision has no such model.
    """
    try:
        network = torchvision.models.get_model(architecture, weights=None)
    except ValueError as error:
        raise InputError(f"torchvision has no model {architecture!r}") from error
    if grey:
        holder: Network = network.features if hasattr(network, "features") else network
        name = "conv0" if hasattr(holder, "conv0") else "conv1"
        conv = getattr(holder, name)
        setattr(
            holder,
            name,
            nn.Conv2d(
                1, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=conv.bias is not None
            ),
        )
    return network


def load_own_weights(network: nn.Module, folder: Path) -> None:
    """Load the weights of a folder; those of a classification head of another size are left out.

    Raises:
        InputError: weights are missing, or not of this model.
    """
    path = next(
        (folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()),
        None,
    )
    if path is None:
        raise InputError(f"{folder}: no model.safetensors beside config.json")
    for head in (head for head in HEADS if hasattr(network, head)):
        setattr(network, head, nn.Identity())
    weights = {key.removeprefix("model."): tensor for key, tensor in read_weights(path).items()}
    own = network.state_dict()
    kept = {key: tensor for key, tensor in weights.items() if key in own}
    missing = own.keys() - kept.keys()
    strangers = {key.split(".")[0] for key in weights.keys() - own.keys()} - {*HEADS, "op_threshs"}
    if missing or strangers:
        raise InputError(
            f"{path}: no weights of a {type(network).__name__}: {len(missing)} missing{_first(missing)}, "
            f"{len(strangers)} unknown{_first(strangers)}"
        )
    try:
        network.load_state_dict(kept)
    except RuntimeError as error:
        raise InputError(f"{path}: {' '.join(str(error).split())[:300]}") from error


def _first(names: set[str]) -> str:
    return f" ({min(names)} first)" if names else ""


def _encoder(network: Network, levels: tuple[int, ...], name: str, found: Preprocessing) -> LoadedEncoder:
    """Return the encoder of a network with weights."""
    network.eval()
    if isinstance(network, VisionTransformer):
        no_levels(levels, name)
        return LoadedEncoder(network, _encode_vit, found)
    if not hasattr(network, "features") and not hasattr(network, "layer4"):
        raise InputError(
            f"vision.model: the feature maps of torchvision's {name!r} cannot be read; take timm's"
        )
    with torch.no_grad():
        trial = _levels(network, torch.zeros(1, found.channels, *found.size))
    if any(level.ndim != 4 for level in trial.values()):
        raise InputError(f"vision.model: torchvision's {name!r} gives no feature maps; take timm's")
    strides = [list(trial)[i] for i in chosen_levels(list(trial), levels, name)]

    def encode(network: Network, pixels: torch.Tensor) -> FeatureMaps:
        maps = _levels(network, pixels)
        return FeatureMaps(None, joined([maps[stride] for stride in strides]))

    return LoadedEncoder(network, encode, found)


def _levels(network: Network, pixels: torch.Tensor) -> dict[int, torch.Tensor]:
    """Return the last feature map of each stride, from fine to coarse."""
    if hasattr(network, "features"):
        parts = list(network.features.children())
    else:
        names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        parts = [getattr(network, name) for name in names]
    found, x = {}, pixels
    for part in parts:
        x = part(x)
        found[round(pixels.shape[-2] / x.shape[-2])] = x
    if isinstance(network, DenseNet):  # its last ReLU is a function
        found = {**found, list(found)[-1]: F.relu(x)}
    # ReLUs that work in place would change an earlier level; each later part of these networks copies first
    return found


def _encode_vit(network: Network, pixels: torch.Tensor) -> FeatureMaps:
    patches = network._process_input(pixels)
    tokens = torch.cat([network.class_token.expand(len(patches), -1, -1), patches], 1)
    return maps_of_tokens(network.encoder(tokens), 1, True, pixels)
