"""Encoders of others behind one small interface: image -> embedding(s), text -> embedding.

A folder is recognised by its files: a transformers CLIP, SigLIP or BLIP-2 (config.json with `model_type`), an
open_clip model (open_clip_config.json), a timm backbone (config.json with `architecture`), or a torchvision backbone
(config.json {"torchvision": NAME}, and model.safetensors). Backbones read no text: they can be fine-tuned only.

transformers, open_clip, timm and torchvision are imported where they are used: an evaluation needs one of them, and each
takes seconds.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from medunifier.evaluation.classifier import ImageEncoder
from medunifier.runtime.errors import InputError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
PLAIN = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

ForeignNetwork = Any  # a network of another library, whose methods depend on its kind


@dataclass(frozen=True)
class Encoder:
    """An encoder in evaluation mode.

    Attributes:
        network: Holds every weight.
        size: Height and width of its images in pixels.
        mean: Of the normalisation of pixels, by channel.
        std: Of the normalisation of pixels, by channel.
        vectors: Maps a network and pixels to (B, W), the input of a classifier's head; differentiable. The network is
            an argument, so that a copy can be trained.
        embed_images: Maps pixels (B, 3, size, size) to embeddings (B, Q, P), L2-normalised; Q is 1 except for BLIP-2.
        embed_texts: Maps texts to embeddings (n, P), L2-normalised; None for a backbone.
    """

    network: nn.Module
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    vectors: Callable[[ForeignNetwork, torch.Tensor], torch.Tensor]
    embed_images: Callable[[torch.Tensor], torch.Tensor]
    embed_texts: Callable[[Sequence[str]], torch.Tensor] | None

    def prepare(self, grey: torch.Tensor) -> torch.Tensor:
        """Turn grey images, uint8 (B, H, W), into normalised pixels (B, 3, size, size)."""
        pixels = grey[:, None].float() / 255
        if pixels.shape[-2:] != (self.size, self.size):
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels.expand(-1, 3, -1, -1) - mean) / std


class VectorEncoder(ImageEncoder):
    """The trainable image side of an encoder, as `Classifier` takes it."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.network, self._vectors = encoder.network, encoder.vectors
        with torch.no_grad():
            parameter = next(encoder.network.parameters())
            blank = torch.zeros(1, 3, encoder.size, encoder.size, device=parameter.device)
            self.width = encoder.vectors(encoder.network, blank).shape[1]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the vectors (B, width) of pixels (B, 3, size, size)."""
        return self._vectors(self.network, pixels)


def load_encoder(folder: str | Path) -> Encoder:
    """Load the encoder in a folder.

    Raises:
        InputError: If it is none of the known kinds or cannot be loaded.
    """
    folder = Path(folder)
    try:
        if (folder / "open_clip_config.json").is_file():
            return _open_clip(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") in ("clip", "siglip"):  # siglip2 reads patches of images of any shape
            return _two_towers(folder, config["model_type"])
        if config.get("model_type") == "blip-2":
            return _blip_2(folder)
        if "torchvision" in config:
            return _torchvision(folder, config["torchvision"])
        if "architecture" in config:
            return _timm(folder)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: cannot be loaded as an encoder: {str(error)[:300]}") from error
    raise InputError(
        f"{folder}: no known encoder; expected the folder of a transformers CLIP, SigLIP or BLIP-2, of an open_clip "
        "or timm model, or of a torchvision backbone (config.json with `torchvision`)"
    )


def _normalised(x: torch.Tensor) -> torch.Tensor:
    return F.normalize(x.float(), dim=-1)


def _tensor(output: Any) -> torch.Tensor:
    """Return the features, which some versions of transformers wrap."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def _image_settings(folder: Path, default: tuple) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation from preprocessor_config.json, if there is one."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return default
    found = json.loads(path.read_text(encoding="utf-8"))
    return tuple(found.get("image_mean", default[0])), tuple(found.get("image_std", default[1]))


def _two_towers(folder: Path, kind: str) -> Encoder:
    from transformers import AutoModel, AutoTokenizer

    network: ForeignNetwork = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = network.config.text_config.max_position_embeddings
    padding = "max_length" if kind == "siglip" else True  # SigLIP was trained on full-length texts

    def vectors(network: ForeignNetwork, pixels: torch.Tensor) -> torch.Tensor:
        return _tensor(network.get_image_features(pixel_values=pixels))

    def embed_texts(texts: Sequence[str]) -> torch.Tensor:
        tokens = tokenizer(
            list(texts), padding=padding, truncation=True, max_length=longest, return_tensors="pt"
        )
        kept = {k: v.to(network.device) for k, v in tokens.items() if k in ("input_ids", "attention_mask")}
        return _normalised(_tensor(network.get_text_features(**kept)))

    return Encoder(
        network,
        network.config.vision_config.image_size,
        *_image_settings(folder, CLIP if kind == "clip" else PLAIN),
        vectors,
        lambda pixels: _normalised(vectors(network, pixels))[:, None],
        embed_texts,
    )


def _blip_2(folder: Path) -> Encoder:
    from transformers import AutoTokenizer, Blip2ForImageTextRetrieval

    network: ForeignNetwork = Blip2ForImageTextRetrieval.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = network.config.qformer_config.max_position_embeddings

    def queries(network: ForeignNetwork, pixels: torch.Tensor) -> torch.Tensor:
        tokens = network.vision_model(pixel_values=pixels).last_hidden_state
        return network.qformer(
            query_embeds=network.query_tokens.expand(len(tokens), -1, -1),
            encoder_hidden_states=tokens,
            encoder_attention_mask=torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device),
        ).last_hidden_state

    def embed_texts(texts: Sequence[str]) -> torch.Tensor:
        tokens = tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(network.device)
        text = network.qformer(
            query_embeds=network.embeddings(input_ids=tokens["input_ids"]),
            query_length=0,
            attention_mask=tokens["attention_mask"],
        ).last_hidden_state
        return _normalised(network.text_projection(text[:, 0]))

    return Encoder(
        network,
        network.config.vision_config.image_size,
        *_image_settings(folder, CLIP),
        lambda network, pixels: queries(network, pixels).mean(1),
        lambda pixels: _normalised(network.vision_projection(queries(network, pixels))),
        embed_texts,
    )


def _open_clip(folder: Path) -> Encoder:
    import open_clip

    network: ForeignNetwork = open_clip.create_model(f"local-dir:{folder.absolute()}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder.absolute()}")
    size = network.visual.image_size
    mean = getattr(network.visual, "image_mean", None) or CLIP[0]
    std = getattr(network.visual, "image_std", None) or CLIP[1]

    def embed_texts(texts: Sequence[str]) -> torch.Tensor:
        device = next(network.parameters()).device
        return _normalised(network.encode_text(tokenizer(list(texts)).to(device)))

    return Encoder(
        network,
        size if isinstance(size, int) else size[0],
        tuple(mean),
        tuple(std),
        lambda network, pixels: network.encode_image(pixels),
        lambda pixels: _normalised(network.encode_image(pixels))[:, None],
        embed_texts,
    )


def _timm(folder: Path) -> Encoder:
    import timm
    from timm.data.config import resolve_model_data_config

    network = timm.create_model(f"local-dir:{folder.absolute()}", pretrained=True, num_classes=0).eval()
    settings = resolve_model_data_config(network)
    return _backbone(network, settings["input_size"][-1], settings["mean"], settings["std"])


def _torchvision(folder: Path, name: str) -> Encoder:
    import torchvision

    network = torchvision.models.get_model(name, weights=None)
    head = next(part for part in ("fc", "classifier", "heads", "head") if hasattr(network, part))
    setattr(network, head, nn.Identity())
    weights = load_file(folder / "model.safetensors")
    network.load_state_dict({k: v for k, v in weights.items() if k.split(".")[0] != head})
    return _backbone(network.eval(), 224, *IMAGENET)


def _backbone(network: nn.Module, size: int, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    return Encoder(
        network,
        size,
        tuple(mean),
        tuple(std),
        lambda network, pixels: network(pixels),
        lambda pixels: _normalised(network(pixels))[:, None],
        None,
    )
