"""A small, seeded, untrained ViT in place of downloaded weights.

It is not trained, but an image's content can be read from its tokens by a linear map, as from those of a trained
encoder. The channels of a token are divided among three kinds of information:

* a third: the appearance of the patch, as the lowest coefficients of its discrete cosine transform, with the
  frequencies scaled to similar strength;
* a sixth: the position of the patch;
* the rest: the content, brightness by region. The hidden units of each MLP are active in random regions of the image
  and pass on the brightness there (random features, Rahimi and Recht, NeurIPS 2007, of position and appearance).
  So even the mean token of an image describes it. Appearance alone nearly averages out.

Attention adds a little of other patches, and a rotation mixes all channels.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save_file

from medunifier.runtime.files import write_json
from medunifier.runtime.params import Vit

IMAGE_SIZE = 224  # pixels, as the paper's encoders
GREY = 0.45  # mean brightness of a radiograph, which the patch embedding subtracts
# Norms of a token's parts: a constant anchor, the position code, and about the whole token before the MLPs.
ANCHOR, POSITION, WHOLE = 3.0, 1.2, 3.8
BRANCH = 0.35  # gain of the weights of attention
UNITS = 2  # hidden units for one content channel, one with weight +1, one with -1
INPUTS = 3  # appearance channels that hidden units read: the brightness of the patch and its two slopes
THRESHOLD = 1.0  # mean distance of a hidden unit from activation, in standard deviations over the positions
CONTENT = 0.5  # gain of the hidden units' output


class Shares(NamedTuple):
    """Numbers of channels of a token, before they are mixed, for each kind of information."""

    appearance: int
    position: int
    content: int

    @classmethod
    def of(cls, width: int) -> "Shares":
        """Divide `width` channels, at least 12, of which one is the anchor's."""
        appearance, position = width // 3, 4 * (width // 24 or 1)
        return cls(appearance, position, width - appearance - position - 1)


def write_vit(folder: Path, vit: Vit, seed: int) -> None:
    """Write a checkpoint (config.json, preprocessor_config.json, model.safetensors) that transformers' `ViTModel` loads from `folder`.

    Its tokens are [batch, 1 + (224 / patch_size)^2, width] for pixels [batch, 3, 224, 224] in 0..1, not
    normalised. The same seed gives the same bytes. Weights are named as in google/vit-base-patch16-224 on the
    hub. Written without transformers, which takes seconds to import.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": vit.width,
        "num_hidden_layers": vit.layers,
        "num_attention_heads": vit.heads,
        "intermediate_size": UNITS * Shares.of(vit.width).content,
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
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,  # its weights are made for pixels in [0, 1]
    }
    write_json(folder / "preprocessor_config.json", processor)
    rng = np.random.default_rng([*b"vit", seed])
    weights = {name: np.ascontiguousarray(value, np.float32) for name, value in _weights(vit, rng).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _weights(vit: Vit, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return every weight of a `ViTModel` by name."""
    width, shares = vit.width, Shares.of(vit.width)
    mixing, _ = np.linalg.qr(rng.standard_normal((width, width)))
    appearance, position, content, rest = np.split(mixing, np.cumsum(shares), axis=1)  # (width, k) each
    anchor = ANCHOR * rest[:, 0]
    kernel = np.tensordot(appearance, patch_functions(vit.patch_size, shares.appearance), axes=1)
    code = position_code(IMAGE_SIZE // vit.patch_size, shares.position)
    weights = {
        "embeddings.cls_token": anchor[None, None],
        "embeddings.position_embeddings": np.concatenate([np.zeros((1, width)), code @ position.T])[None],
        "embeddings.patch_embeddings.projection.weight": np.repeat(kernel[:, None], 3, axis=1) / 3,
        "embeddings.patch_embeddings.projection.bias": anchor - GREY * kernel.sum(axis=(1, 2)),
        # The final norm divides by the norm of a token. The anchor makes it nearly constant, which preserves
        # brightness. The norm's bias then subtracts the anchor.
        "layernorm.weight": np.full(width, 2.0),
        "layernorm.bias": -2.0 * math.sqrt(width) * anchor / WHOLE,
        **_linear("pooler.dense", width, width, rng),
    }
    for number in range(vit.layers):
        block = f"encoder.layer.{number}"
        for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            weights |= _linear(f"{block}.{name}", width, width, rng)
        weights |= _linear(f"{block}.attention.output.dense", width, width, rng)
        inner, bias = hidden_units(code, UNITS * shares.content, min(INPUTS, shares.appearance), rng)
        read = np.concatenate([position, appearance[:, : inner.shape[1] - shares.position]], axis=1)
        signs = np.resize([1.0, -1.0], UNITS * shares.content)
        output = np.repeat(content, UNITS, axis=1) * signs
        weights |= {
            f"{block}.intermediate.dense.weight": inner @ read.T * WHOLE / math.sqrt(width),
            f"{block}.intermediate.dense.bias": bias,
            f"{block}.output.dense.weight": CONTENT * output,
            f"{block}.output.dense.bias": np.zeros(width),
        }
        for norm in ("layernorm_before", "layernorm_after"):
            weights |= {f"{block}.{norm}.weight": np.ones(width), f"{block}.{norm}.bias": np.zeros(width)}
    return weights


def _linear(name: str, outputs: int, inputs: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return random weights and zero biases of a linear layer."""
    weight = BRANCH * rng.standard_normal((outputs, inputs)) / math.sqrt(inputs)
    return {f"{name}.weight": weight, f"{name}.bias": np.zeros(outputs)}


def patch_functions(patch_size: int, count: int) -> np.ndarray:
    """Return the lowest functions of the orthonormal DCT-II of a grey patch, float64 [count, patch_size, patch_size].

    Each has a gain that compensates the decay of natural spectra. If a patch has fewer than `count` pixels, the rest
    are zeros.
    """
    steps = np.arange(patch_size)
    waves = np.cos(np.pi * (steps[None, :] + 0.5) * steps[:, None] / patch_size) * math.sqrt(2 / patch_size)
    waves[0] /= math.sqrt(2)
    basis = np.einsum("ux,vy->uvxy", waves, waves).reshape(-1, patch_size, patch_size)
    frequency = np.hypot(*np.meshgrid(steps, steps)).ravel()
    order = np.argsort(frequency, kind="stable")[:count]
    gain = np.where(frequency == 0, 0.35, np.minimum(frequency, 10.0) ** 0.75)[order]
    functions = np.zeros((count, patch_size, patch_size))
    functions[: len(order)] = gain[:, None, None] * basis[order]
    return functions


def position_code(side: int, width: int) -> np.ndarray:
    """Return a smooth code of the position of each patch, float64 [side * side, width], each of norm POSITION.

    Sine and cosine of row and column, with wavelengths from a quarter of the image to twice its side.
    """
    rows, columns = np.divmod(np.arange(side * side), side)
    waves = 2 * np.pi / (side * np.geomspace(2.0, 0.25, width // 4))
    angles = [index[:, None] * waves for index in (rows, columns)]
    code = np.concatenate([part(angle) for angle in angles for part in (np.sin, np.cos)], axis=1)
    return POSITION * code / math.sqrt(width / 2)


def hidden_units(
    code: np.ndarray, count: int, inputs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw hidden units that are active in a part of the image each.

    Args:
        code: codes of all positions [positions, width].
        count: number of units.
        inputs: number of appearance channels that they read.
        rng: draws the weights.

    Returns:
        Weights [count, width + inputs] and biases [count].
    """
    on_position = rng.standard_normal((count, code.shape[1]))
    activation = code @ on_position.T  # (positions, count)
    on_position /= activation.std(0)[:, None]
    on_appearance = rng.standard_normal((count, inputs)) / math.sqrt(inputs)
    bias = -activation.mean(0) / activation.std(0) - THRESHOLD
    return np.concatenate([on_position, on_appearance], axis=1), bias
