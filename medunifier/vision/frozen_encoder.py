"""The frozen image encoder: any ViT of timm or transformers that gives [CLS] and patch tokens."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medunifier.runtime.errors import InputError

Encode = Callable[[nn.Module, torch.Tensor], torch.Tensor]  # ViT and pixels -> tokens (B, T, width)


class FrozenViT(nn.Module):
    """A ViT without gradients that always stays in evaluation mode.

    Args:
        vit: the model.
        tokens: encodes pixels with it.

    Attributes:
        checksum: SHA-256 of its weights, as recorded in the feature manifests.
    """

    def __init__(self, vit: nn.Module, tokens: Encode):
        super().__init__()
        self.vit = vit.eval().requires_grad_(False)
        self._tokens = tokens
        self.checksum = weights_checksum(vit)

    def train(self, mode: bool = True) -> "FrozenViT":
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode images.

        Args:
            pixels: (B, 3, 224, 224) in [0, 1], not normalised (paper appendix 2).

        Returns:
            Features (B, 1 + patches, width), [CLS] first.

        Raises:
            InputError: the ViT takes no images of this size, or gives other tokens than [CLS] and a square of patches.
        """
        try:
            tokens = self._tokens(self.vit, pixels)
        except ValueError as error:  # about the image size
            raise InputError(
                f"vision.model: takes no images of {pixels.shape[-2]} x {pixels.shape[-1]} pixels: {error}"
            ) from error
        patches = tokens.shape[1] - 1
        if math.isqrt(max(patches, 0)) ** 2 != patches:
            raise InputError(
                f"vision.model: gives {patches + 1} tokens for an image; expected [CLS] and a square of patches, "
                "for example 257 or 197. Choose a ViT with a class token and without registers"
            )
        return tokens


def load_vision(model: str, revision: str | None = None, skip_last_blocks: int = 0) -> FrozenViT:
    """Load a frozen ViT by name or folder.

    Args:
        model: `timm:NAME`, `hf:NAME`, or a folder written by either library.
        revision: commit of a hub model.
        skip_last_blocks: number of blocks left out at the end, together with the final norm. BLIP-2 takes ViT-g's
            tokens after 39 of 40 blocks and without the norm of the last block.

    Raises:
        InputError: the model cannot be found or loaded, or is no ViT with a class token.
    """
    try:
        if model.startswith("timm:"):
            vit, tokens = _timm(model.removeprefix("timm:") + (f"@{revision}" if revision else ""))
        elif model.startswith("hf:"):
            vit, tokens = _transformers(model.removeprefix("hf:"), revision)
        elif not (Path(model) / "config.json").is_file():
            raise InputError(
                f"vision.folder: {model!r} has no config.json. Give the folder of a saved ViT, or let vision.model be "
                "`timm:NAME` or `hf:NAME`."
            )
        elif "model_type" in json.loads((Path(model) / "config.json").read_text()):
            vit, tokens = _transformers(model, None)
        else:
            vit, tokens = _timm(f"local-dir:{model}")
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"vision.model: cannot load {model!r}: {str(error)[:300]}") from error
    if skip_last_blocks:
        drop_last_blocks(vit, skip_last_blocks)
    return FrozenViT(vit, tokens)


def load_recorded_vision(record: Mapping[str, Any], project: str | Path = ".") -> FrozenViT:
    """Load the ViT that a feature manifest or a model's config.json records.

    Args:
        record: `model`, `revision`, `skip_last_blocks` and `checksum`.
        project: folder from which a relative path in `model` counts.

    Raises:
        InputError: the ViT cannot be found or loaded, or its weights differ from the recorded ones.
    """
    model = record["model"]
    if not model.startswith(("timm:", "hf:")):
        model = str(Path(project) / model)
    vit = load_vision(model, record["revision"], record["skip_last_blocks"])
    if vit.checksum != record["checksum"]:
        raise InputError(
            f"{record['model']}: other weights than those that features or model were made with (its SHA-256 differs "
            "from the recorded one); put the weights back, or run extract_features again"
        )
    return vit


# timm and transformers take seconds to import; of the two only the one that the model needs is loaded.


def _timm(name: str) -> tuple[nn.Module, Encode]:
    import timm

    vit = timm.create_model(name, pretrained=True, num_classes=0, img_size=224)
    if getattr(vit, "num_prefix_tokens", 0) != 1:
        raise InputError(f"vision.model: {name!r} has no single class token before its patch tokens.")
    return vit, lambda vit, pixels: vit.forward_features(pixels)  # pyright: ignore[reportCallIssue] timm's ViTs have it


def _transformers(name: str, revision: str | None) -> tuple[nn.Module, Encode]:
    from transformers import AutoModel, Blip2VisionModel, PreTrainedConfig

    config, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    if config.get("model_type", "").replace("-", "_").startswith("blip_2"):
        # the whole of BLIP-2, or its vision part alone, which the Auto classes do not know
        vit = Blip2VisionModel.from_pretrained(name, revision=revision or "main")
    else:
        vit = AutoModel.from_pretrained(name, revision=revision)
        vit = getattr(vit, "vision_model", vit)
    if isinstance(getattr(vit, "pooler", None), nn.Module):
        # It is not used. A checkpoint without one would give it random weights, and a new checksum each time.
        vit.pooler = None  # pyright: ignore[reportArgumentType] PyTorch allows None for a submodule
    return vit, lambda vit, pixels: vit(pixel_values=pixels).last_hidden_state


def drop_last_blocks(vit: nn.Module, count: int) -> None:
    """Remove the last `count` blocks and the final norm, in place.

    Raises:
        InputError: the model has too few blocks, or they are not found.
    """
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
    """Return the SHA-256 of names, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
