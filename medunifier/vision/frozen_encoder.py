"""The frozen image encoder: any ViT of timm or transformers that gives [CLS] and patch tokens."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medunifier.runtime.errors import InputError


class FrozenViT(nn.Module):
    """A ViT that only ever evaluates.

    Attributes:
        checksum: SHA-256 over its weights, as recorded in the feature manifests.
    """

    def __init__(self, vit: nn.Module, tokens):
        super().__init__()
        self.vit = vit.eval().requires_grad_(False)
        self._tokens = tokens
        self.checksum = weights_checksum(vit)

    def train(self, mode: bool = True) -> "FrozenViT":
        """Stays in evaluation mode whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, 224, 224) in [0, 1], not normalised (paper appendix 2) -> tokens (B, 1 + patches, width).

        Raises InputError if the ViT takes no such images, or gives other tokens than [CLS] and a square of patches.
        """
        try:
            tokens = self._tokens(self.vit, pixels)
        except ValueError as error:  # of the image's size
            raise InputError(
                f"vision.model: takes no images of {pixels.shape[-2]} x {pixels.shape[-1]} pixels: {error}"
            ) from error
        patches = tokens.shape[1] - 1
        if math.isqrt(max(patches, 0)) ** 2 != patches:
            raise InputError(
                f"vision.model: gives {patches + 1} tokens for an image; expected were [CLS] and a square of patches, "
                "257 or 197, say. Choose a ViT with a class token and without registers"
            )
        return tokens


def load_vision(model: str, revision: str | None = None, skip_last_blocks: int = 0) -> FrozenViT:
    """A frozen ViT by name or folder.

    Args:
        model: `timm:NAME`, `hf:NAME`, or a folder written by either library.
        revision: commit of a hub model.
        skip_last_blocks: blocks left out at the end. BLIP-2 takes ViT-g's tokens after 39 of 40 blocks
            and without the final norm, which belongs to the last block; both leave together here.

    Raises:
        InputError: the model is not there, or is no ViT with a class token.
    """
    try:
        if model.startswith("timm:"):
            vit, tokens = _timm(model.removeprefix("timm:") + (f"@{revision}" if revision else ""))
        elif model.startswith("hf:"):
            vit, tokens = _transformers(model.removeprefix("hf:"), revision)
        elif not (Path(model) / "config.json").is_file():
            raise InputError(
                f"vision.model: {model!r} has no config.json. Give `timm:NAME`, `hf:NAME` or the folder of a saved ViT."
            )
        elif "model_type" in json.loads((Path(model) / "config.json").read_text()):
            vit, tokens = _transformers(model, None)
        else:
            vit, tokens = _timm(f"local-dir:{model}")
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"vision.model: cannot load {model!r}: {str(error)[:300]}") from error
    if skip_last_blocks:
        _drop_last_blocks(vit, skip_last_blocks)
    return FrozenViT(vit, tokens)


def load_recorded_vision(about: Mapping[str, Any]) -> FrozenViT:
    """The ViT that `about` records: `model`, `revision`, `skip_last_blocks` and `checksum`, as in a feature manifest.

    Raises InputError when it is not there, or its weights are others.
    """
    vit = load_vision(about["model"], about["revision"], about["skip_last_blocks"])
    if vit.checksum != about["checksum"]:
        raise InputError(
            f"{about['model']}: other weights than those that features or model were made with (its SHA-256 differs "
            "from the recorded one); put the weights back, or run extract_features again"
        )
    return vit


def _timm(name: str):
    import timm

    vit = timm.create_model(name, pretrained=True, num_classes=0, img_size=224)
    if getattr(vit, "num_prefix_tokens", 0) != 1:
        raise InputError(f"vision.model: {name!r} has no single class token before its patch tokens.")
    return vit, lambda vit, pixels: vit.forward_features(pixels)


def _transformers(name: str, revision: str | None):
    from transformers import AutoModel, Blip2VisionModel, PreTrainedConfig

    config, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    if config.get("model_type", "").replace("-", "_").startswith("blip_2"):
        # the whole of BLIP-2 or its vision part alone, which the Auto classes do not know
        vit = Blip2VisionModel.from_pretrained(name, revision=revision)
    else:
        vit = AutoModel.from_pretrained(name, revision=revision)
        vit = getattr(vit, "vision_model", vit)
    if isinstance(getattr(vit, "pooler", None), nn.Module):
        vit.pooler = (
            None  # not asked for; a checkpoint without one would give it random weights, and a new checksum
        )
    return vit, lambda vit, pixels: vit(pixel_values=pixels).last_hidden_state


def _drop_last_blocks(vit: nn.Module, count: int) -> None:
    """Takes the last blocks and the final norm away, in place."""
    for holder in (vit, getattr(vit, "encoder", None)):
        for name in ("blocks", "layers", "layer"):
            blocks = getattr(holder, name, None)
            if isinstance(blocks, nn.ModuleList | nn.Sequential):
                if count >= len(blocks):
                    raise InputError(
                        f"vision.skip_last_blocks is {count}, but the model has {len(blocks)} blocks."
                    )
                setattr(holder, name, blocks[:-count])
                for norm in ("norm", "fc_norm", "layernorm", "post_layernorm"):
                    if isinstance(getattr(vit, norm, None), nn.Module):
                        setattr(vit, norm, nn.Identity())
                return
    raise InputError("vision.skip_last_blocks: this model's blocks were not found; set it to 0.")


def weights_checksum(module: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
