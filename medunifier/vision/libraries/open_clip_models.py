"""Image encoders of open_clip: the vision tower alone, so that no text tower has to be there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from huggingface_hub import snapshot_download
from open_clip.model import (
    _build_vision_tower,  # pyright: ignore[reportPrivateUsage] the public way also builds the text tower
    resize_pos_embed,
)
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer

from medunifier.runtime.errors import InputError
from medunifier.runtime.json_files import read_json_object
from medunifier.storage.weights import read_weights
from medunifier.vision.feature_maps import FeatureMaps, LoadedEncoder, Network, maps_of_tokens, no_levels
from medunifier.vision.libraries.timm_models import encode_vit, is_vit
from medunifier.vision.preprocessing import CLIP, Preprocessing, whole_images

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")


def load_open_clip(
    name: str, revision: str | None, size: int | None, levels: tuple[int, ...]
) -> LoadedEncoder:
    """Load the vision tower of a model of open_clip: its ViTs, and timm's models within open_clip.

    Args:
        name: hf-hub:ORGANISATION/NAME, or a folder with open_clip_config.json and the weights.
        revision: commit of a hub model.
        size: height and width that it is to read, where not its own; position embeddings are resized.
        levels: must be ().

    Raises:
        InputError: files or weights are missing, or the vision tower is of another kind.
    """
    no_levels(levels, name)
    folder = Path(name)
    if name.startswith("hf-hub:"):
        wanted = ["open_clip_config.json", *WEIGHTS]
        repository = name.removeprefix("hf-hub:")
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    settings = read_json_object(folder / "open_clip_config.json")
    model = settings.get("model_cfg")
    if not isinstance(model, dict) or not isinstance(model.get("vision_cfg"), dict):
        raise InputError(f"{folder}/open_clip_config.json: no model_cfg with a vision_cfg")
    network = _vision_tower(folder, model, size)
    if not isinstance(network, VisionTransformer) and not isinstance(network, TimmModel):
        raise InputError(f"{folder}: a {type(network).__name__} is no ViT; its features cannot be read yet")
    return LoadedEncoder(network.eval(), encode, image_settings(settings, network))


def load_both_towers(folder: Path, settings: dict[str, Any]) -> Network:
    """Load image and text tower of a folder.

    A text tower of transformers (BiomedCLIP's BiomedBERT) is built by its config.json alone, which open_clip would fetch
    from the hub. Offline it lies in FOLDER/text_tower/config.json.

    Raises:
        InputError: the text tower's config.json is not there, or names code of its own.
    """
    text = settings.get("model_cfg", {}).get("text_cfg", {})
    name = text.get("hf_model_name")
    if name is None:
        return open_clip.create_model(f"local-dir:{folder.absolute()}")
    tower = folder / "text_tower"
    if not (tower / "config.json").is_file():
        raise InputError(
            f"{folder}: its text tower is built by the config.json of {name}, which is not part of the folder; put that "
            f"file to {tower}/config.json, and the tokenizer's files (vocab.txt or tokenizer.json, tokenizer_config.json) "
            f"beside {folder}/open_clip_config.json"
        )
    if "auto_map" in read_json_object(tower / "config.json"):
        raise InputError(
            f"{tower}/config.json: names code of its own (auto_map), which is not run; remove that entry"
        )
    model = {key: value for key, value in settings["model_cfg"].items() if key != "custom_text"}
    vision: Any = {**model.pop("vision_cfg"), "timm_model_pretrained": False}
    local: Any = {**model.pop("text_cfg"), "hf_model_name": str(tower), "hf_model_pretrained": False}
    network = open_clip.CustomTextCLIP(vision_cfg=vision, text_cfg=local, **model)
    network.load_state_dict(_weights(folder)[0])
    return network


def _weights(folder: Path) -> tuple[dict[str, torch.Tensor], Path]:
    """Return the weights of a folder, by name, and their file."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"{folder}: no weights; put one of {', '.join(WEIGHTS)} there")
    weights = {key.removeprefix("module."): tensor for key, tensor in read_weights(path).items()}
    return {key: tensor for key, tensor in weights.items() if not key.endswith("position_ids")}, path


def _vision_tower(folder: Path, model: dict[str, Any], size: int | None) -> Network:
    """Return the vision tower with its weights, for images of `size`."""
    weights, path = _weights(folder)
    vision: Any = {**model["vision_cfg"], "timm_model_pretrained": False}
    native = vision.get("timm_model_name") is None
    if size is not None and native:
        vision["image_size"] = size
    network: Network = _build_vision_tower(model["embed_dim"], vision, bool(model.get("quick_gelu", False)))
    if native:
        resize_pos_embed(weights, SimpleNamespace(visual=network))
    own = {
        key.removeprefix("visual."): tensor for key, tensor in weights.items() if key.startswith("visual.")
    }
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(f"{path}: {' '.join(str(error).split())[:300]}") from error
    if size is not None and not native:
        network.set_input_size((size, size))
    return network


def encode(network: Network, pixels: torch.Tensor) -> FeatureMaps:
    """Encode images with the vision tower, before the projection into the space shared with texts."""
    if isinstance(network, TimmModel):
        trunk: Network = network.trunk
        return (
            encode_vit(trunk, pixels) if is_vit(trunk) else FeatureMaps(None, trunk.forward_features(pixels))
        )
    found = network.forward_intermediates(
        pixels,
        indices=1,
        normalize_intermediates=True,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    (patches,), (prefix,) = found["image_intermediates"], found["image_intermediates_prefix"]
    return maps_of_tokens(torch.cat([prefix, patches], 1), prefix.shape[1], True, pixels)


def image_settings(settings: dict[str, Any], network: Network) -> Preprocessing:
    """Return the preprocessing by `preprocess_cfg` of open_clip_config.json; what it leaves out is open_clip's default."""
    settings, size = settings.get("preprocess_cfg") or {}, network.image_size
    values = [settings.get("mean") or CLIP[0], settings.get("std") or CLIP[1]]
    sides = (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return whole_images(sides, values, settings.get("interpolation") or "bicubic")
