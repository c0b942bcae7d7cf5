"""A small seeded ViT that stands in for downloaded weights.

It is not trained. Its patch embedding keeps what a patch looks like (the discrete cosine transform, with
the frequencies brought to similar strength and mixed by a rotation); its blocks add a little of what the
other patches show. So whatever can be seen in a picture can be read off its tokens.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from stages.storage.files import write_json

if TYPE_CHECKING:
    from stages.params import Vit

MLP_RATIO = 2
IMAGE_SIZE = 224  # pixels, as the paper's encoders
GREY = 0.45  # a usual brightness of a radiograph, which the embedding takes for zero
ANCHOR, PLACE, BRANCH = (
    3.0,
    1.2,
    0.35,
)  # norms: constant part and position of a token; gain of the blocks' weights


def write_vit(folder: Path, vit: "Vit", seed: int) -> None:
    """Write a checkpoint (config.json, model.safetensors) that transformers' `ViTModel` loads from `folder`.

    Its tokens are [batch, 1 + (224 / patch_size)^2, width] for pixels [batch, 3, 224, 224] in 0..1, not
    normalised. The same seed gives the same bytes. Names of weights as in google/vit-base-patch16-224 on the
    hub; written without transformers, whose import would take longer than all the rest of the stage's set-up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": vit.width,
        "num_hidden_layers": vit.layers,
        "num_attention_heads": vit.heads,
        "intermediate_size": MLP_RATIO * vit.width,
        "image_size": IMAGE_SIZE,
        "patch_size": vit.patch_size,
        "num_channels": 3,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    write_json(folder / "config.json", config)
    rng = np.random.default_rng([*b"vit", seed])
    weights = {name: np.ascontiguousarray(value, np.float32) for name, value in _weights(vit, rng).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _weights(vit: "Vit", rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Name -> value of every weight of a `ViTModel`."""
    width = vit.width
    anchor = _unit(rng.standard_normal(width)) * ANCHOR
    kernel = patch_kernel(vit.patch_size, width, rng)
    places = position_code(IMAGE_SIZE // vit.patch_size, width, rng)
    weights = {
        "embeddings.cls_token": anchor[None, None],
        "embeddings.position_embeddings": np.concatenate([np.zeros((1, width)), places])[None],
        "embeddings.patch_embeddings.projection.weight": np.repeat(kernel[:, None], 3, axis=1) / 3,
        "embeddings.patch_embeddings.projection.bias": anchor - GREY * kernel.sum(axis=(1, 2)),
        # The closing norm divides by a token's length, of which the anchor is most: nearly a constant, so
        # that brightness survives. The norm's bias then takes the anchor itself away.
        "layernorm.weight": np.full(width, 2.0),
        "layernorm.bias": -2.0 * math.sqrt(width) * anchor / math.hypot(ANCHOR, PLACE, 2.0),
        **_linear("pooler.dense", width, width, rng),
    }
    for number in range(vit.layers):
        block = f"encoder.layer.{number}"
        for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            weights |= _linear(f"{block}.{name}", width, width, rng)
        weights |= _linear(f"{block}.attention.output.dense", width, width, rng)
        weights |= _linear(f"{block}.intermediate.dense", MLP_RATIO * width, width, rng)
        weights |= _linear(f"{block}.output.dense", width, MLP_RATIO * width, rng)
        for norm in ("layernorm_before", "layernorm_after"):
            weights |= {f"{block}.{norm}.weight": np.ones(width), f"{block}.{norm}.bias": np.zeros(width)}
    return weights


def _linear(name: str, outputs: int, inputs: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    weight = BRANCH * rng.standard_normal((outputs, inputs)) / math.sqrt(inputs)
    return {f"{name}.weight": weight, f"{name}.bias": np.zeros(outputs)}


def patch_kernel(patch_size: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of the patch embedding for a grey patch, float64 [width, patch_size, patch_size].

    Rows are a rotation of the `width` lowest functions of the orthonormal DCT-II (all of them, where the
    patch has fewer pixels than that), each with a gain that makes up for the fall of natural spectra.
    """
    steps = np.arange(patch_size)
    waves = np.cos(np.pi * (steps[None, :] + 0.5) * steps[:, None] / patch_size) * math.sqrt(2 / patch_size)
    waves[0] /= math.sqrt(2)
    basis = np.einsum("ux,vy->uvxy", waves, waves).reshape(-1, patch_size, patch_size)
    frequency = np.hypot(*np.meshgrid(steps, steps)).ravel()
    order = np.argsort(frequency, kind="stable")[:width]
    gain = np.where(frequency == 0, 0.35, np.minimum(frequency, 10.0) ** 0.75)[order]
    rotation, _ = np.linalg.qr(rng.standard_normal((width, width)))
    return np.tensordot(rotation[:, : len(order)], gain[:, None, None] * basis[order], axes=1)


def position_code(side: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth code of the place of each patch, rotated: float64 [side * side, width], each of norm PLACE."""
    rows, columns = np.divmod(np.arange(side * side), side)
    waves = 0.5 ** np.linspace(0, 5, max(1, width // 4)) * np.pi / 2
    angles = [place[:, None] * waves for place in (rows, columns)]
    code = np.concatenate([part(angle) for angle in angles for part in (np.sin, np.cos)], axis=1)
    rotation, _ = np.linalg.qr(rng.standard_normal((width, width)))
    return PLACE * _unit(code @ rotation[: code.shape[1]])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
