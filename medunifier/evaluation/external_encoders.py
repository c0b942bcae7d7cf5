"""Encoders of others behind one small interface: image -> embedding(s), text -> embedding.

A folder is recognised by its files: a transformers CLIP, SigLIP (SigLIP 2 for a fixed size is one) or BLIP-2
(config.json with `model_type`), an open_clip model (open_clip_config.json), a timm backbone (config.json with
`architecture`), a torchvision backbone (config.json {"torchvision": NAME}, and model.safetensors). Every other folder
that `vision` takes is a backbone, too: Dinov2, a ViT, a vision tower, torchxrayvision. Backbones read no text: they can be
fine-tuned only. Images are prepared as each model's own processor does, but the whole image is read.

transformers, open_clip, timm and torchvision are imported where they are used: an evaluation needs one of them, and each
takes seconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.evaluation.classifier import ImageEncoder
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import require_no_pipes
from medunifier.runtime.json_files import read_json_object
from medunifier.runtime.pretrained import load_pretrained
from medunifier.storage.weights import check_finite, read_weights
from medunifier.vision.frozen_encoder import open_encoder
from medunifier.vision.preprocessing import CLIP, IMAGENET, PLAIN, Preprocessing, from_processor, whole_images

ForeignNetwork = Any  # a network of another library, whose methods depend on its kind


@dataclass(frozen=True)
class Encoder:
    """An encoder in evaluation mode.

    Attributes:
        network: Holds every weight.
        preprocessing: Of its own processor, for the whole image.
        vectors: Maps a network and pixels to (B, W), the input of a classifier's head; differentiable. The network is
            an argument, so that a copy can be trained.
        embed_images: Maps pixels (B, channels, H, W) to embeddings (B, Q, P), L2-normalised; Q is 1 except for BLIP-2.
        embed_texts: Maps texts to embeddings (n, P), L2-normalised; None for a backbone.
    """

    network: nn.Module
    preprocessing: Preprocessing
    vectors: Callable[[ForeignNetwork, torch.Tensor], torch.Tensor]
    embed_images: Callable[[torch.Tensor], torch.Tensor]
    embed_texts: Callable[[Sequence[str]], torch.Tensor] | None

    def prepare(self, grey: torch.Tensor) -> torch.Tensor:
        """Turn grey images, uint8 (B, H, W), into the network's input (B, channels, height, width)."""
        return self.preprocessing((grey[:, None].float() / 255).expand(-1, 3, -1, -1))


class VectorEncoder(ImageEncoder):
    """The trainable image side of an encoder, as `Classifier` takes it."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.network, self._vectors = encoder.network, encoder.vectors
        with torch.no_grad():
            parameter = next(encoder.network.parameters())
            shape = (1, encoder.preprocessing.channels, *encoder.preprocessing.size)
            blank = torch.zeros(shape, device=parameter.device)
            self.width = encoder.vectors(encoder.network, blank).shape[1]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the vectors (B, width) of `Encoder.prepare`."""
        return self._vectors(self.network, pixels)


def load_encoder(folder: str | Path) -> Encoder:
    """Load the encoder in a folder.

    Raises:
        InputError: If it is none of the known kinds, cannot be loaded, or has weights that are not finite.
    """
    folder = Path(folder)
    try:
        encoder = _load(folder)
    except InputError:
        raise
    except Exception as error:  # libraries answer a broken folder with errors of every class
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{folder}: cannot be loaded as an encoder: {reason}") from error
    check_finite(encoder.network.state_dict(), folder)
    return encoder


def _load(folder: Path) -> Encoder:
    if (folder / "open_clip_config.json").is_file():
        return _open_clip(folder)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: cannot be loaded as an encoder: no config.json; expected the folder of a transformers CLIP, SigLIP "
            "or BLIP-2, of an open_clip model, or of any encoder that `vision` takes (docs/encoders.md)"
        )
    config = read_json_object(folder / "config.json")
    require_no_pipes(folder)
    kind = config.get("model_type")
    if kind in ("clip", "siglip"):
        return _two_towers(folder, kind)
    if kind == "siglip2":
        raise InputError(
            f"{folder}: a SigLIP 2 for images of any shape (NaFlex), which reads patches; take one for a fixed size, "
            "such as google/siglip2-base-patch16-224"
        )
    if kind == "blip-2":
        return _blip_2(folder)
    if "torchvision" in config:
        return _torchvision(folder, str(config["torchvision"]))
    if "architecture" in config:
        return _timm(folder)
    return _feature_maps(folder)


def _feature_maps(folder: Path) -> Encoder:
    """Return any encoder that `vision` takes; its vector is the class token, the pooled output or the mean."""
    found = open_encoder(str(folder))

    def vectors(network: ForeignNetwork, pixels: torch.Tensor) -> torch.Tensor:
        maps = found.encode(network, pixels)
        return maps.grid.mean((2, 3)) if maps.whole is None else maps.whole

    return _backbone(found.network, found.preprocessing.adapted("model", None, "none"), vectors)


def _normalised(x: torch.Tensor) -> torch.Tensor:
    return F.normalize(x.float(), dim=-1)


def _tensor(output: Any) -> torch.Tensor:
    """Return the features, which some versions of transformers wrap."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def _image_settings(folder: Path, size: int, default: Sequence[Sequence[float]]) -> Preprocessing:
    """Return the preprocessing by the processor in the folder, or else the default of its family."""
    from medunifier.vision.libraries.transformers_models import read_processor

    settings = read_processor(str(folder))
    if settings is None:
        return whole_images((size, size), default, "bicubic")
    return from_processor(settings, folder).adapted("model", None, "none")


def _two_towers(folder: Path, kind: str) -> Encoder:
    from transformers import AutoModel, AutoTokenizer

    network: ForeignNetwork = load_pretrained(AutoModel, folder).eval()
    tokenizer = load_pretrained(AutoTokenizer, folder)
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
        _image_settings(folder, network.config.vision_config.image_size, CLIP if kind == "clip" else PLAIN),
        vectors,
        lambda pixels: _normalised(vectors(network, pixels))[:, None],
        embed_texts,
    )


def _blip_2(folder: Path) -> Encoder:
    from transformers import AutoTokenizer, Blip2ForImageTextRetrieval

    network: ForeignNetwork = load_pretrained(Blip2ForImageTextRetrieval, folder).eval()
    tokenizer = load_pretrained(AutoTokenizer, folder)
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
        _image_settings(folder, network.config.vision_config.image_size, CLIP),
        lambda network, pixels: queries(network, pixels).mean(1),
        lambda pixels: _normalised(network.vision_projection(queries(network, pixels))),
        embed_texts,
    )


def _open_clip(folder: Path) -> Encoder:
    import open_clip

    from medunifier.vision.libraries.open_clip_models import image_settings, load_both_towers

    settings = read_json_object(folder / "open_clip_config.json")
    network: ForeignNetwork = load_both_towers(folder, settings).eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder.absolute()}")

    def embed_texts(texts: Sequence[str]) -> torch.Tensor:
        device = next(network.parameters()).device
        return _normalised(network.encode_text(tokenizer(list(texts)).to(device)))

    return Encoder(
        network,
        image_settings(settings, network.visual),
        lambda network, pixels: network.encode_image(pixels),
        lambda pixels: _normalised(network.encode_image(pixels))[:, None],
        embed_texts,
    )


def _timm(folder: Path) -> Encoder:
    import timm

    from medunifier.vision.libraries.timm_models import preprocessing

    network = timm.create_model(f"local-dir:{folder.absolute()}", pretrained=True, num_classes=0).eval()
    return _backbone(network, preprocessing(network).adapted("model", None, "none"), _call)


def _torchvision(folder: Path, name: str) -> Encoder:
    import torchvision

    network = torchvision.models.get_model(name, weights=None)
    head = next(part for part in ("fc", "classifier", "heads", "head") if hasattr(network, part))
    setattr(network, head, nn.Identity())
    weights = read_weights(folder / "model.safetensors")
    network.load_state_dict({k: v for k, v in weights.items() if k.split(".")[0] != head})
    return _backbone(network.eval(), whole_images((224, 224), IMAGENET, "bilinear"), _call)


def _call(network: ForeignNetwork, pixels: torch.Tensor) -> torch.Tensor:
    return network(pixels)


def _backbone(
    network: nn.Module,
    preprocessing: Preprocessing,
    vectors: Callable[[ForeignNetwork, torch.Tensor], torch.Tensor],
) -> Encoder:
    return Encoder(
        network,
        preprocessing,
        vectors,
        lambda pixels: _normalised(vectors(network, pixels))[:, None],
        None,
    )
