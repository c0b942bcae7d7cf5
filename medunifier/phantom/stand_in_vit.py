"""A small seeded ViT that stands in for downloaded weights.

It is not trained, yet much can be read off its tokens, as off trained ones. Their width is divided:

* a third tells what the patch looks like: the lowest functions of its discrete cosine transform, with the
  frequencies brought to similar strength;
* a sixth tells where the patch lies;
* the rest tells what is seen where: the hidden units of the perceptrons open in regions of the image of their own
  and pass on how bright it is there (random features, Rahimi and Recht, NeurIPS 2007, of the place and the look).
  So even the mean over an image's tokens tells what it shows. Of the look alone, the mean keeps next to nothing.

Attention adds a little of what other patches show, and a rotation mixes all over the channels.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from medunifier.runtime.files import write_json

if TYPE_CHECKING:
    from medunifier.runtime.params import Vit

IMAGE_SIZE = 224  # pixels, as the paper's encoders
GREY = 0.45  # a usual brightness of a radiograph, which the embedding takes for zero
# Norms of a token's parts: a constant one, what tells its place, and about all of it before the perceptrons.
ANCHOR, PLACE, WHOLE = 3.0, 1.2, 3.8
BRANCH = 0.35  # gain of the weights of attention
UNITS = 2  # hidden units that share a channel, one adding to it, one taking away
LOOKS = 3  # functions of the patch that hidden units look at: its brightness, and the slopes of it
SHUT = 1.0  # how far a hidden unit is from open at a usual place, in standard deviations over the places
SEEN = 0.5  # gain of what hidden units pass on


class Shares(NamedTuple):
    """How many of a token's channels, before they are mixed, tell what."""

    look: int
    place: int
    seen: int

    @classmethod
    def of(cls, width: int) -> "Shares":
        """Of `width` channels, 12 or more, one of which is the constant part's."""
        look, place = width // 3, 4 * (width // 24 or 1)
        return cls(look, place, width - look - place - 1)


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
        "intermediate_size": UNITS * Shares.of(vit.width).seen,
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
    width, shares = vit.width, Shares.of(vit.width)
    mixing, _ = np.linalg.qr(rng.standard_normal((width, width)))
    look, place, seen, rest = np.split(mixing, np.cumsum(shares), axis=1)  # (width, k) each
    anchor = ANCHOR * rest[:, 0]
    kernel = np.tensordot(look, patch_functions(vit.patch_size, shares.look), axes=1)
    code = place_code(IMAGE_SIZE // vit.patch_size, shares.place)
    weights = {
        "embeddings.cls_token": anchor[None, None],
        "embeddings.position_embeddings": np.concatenate([np.zeros((1, width)), code @ place.T])[None],
        "embeddings.patch_embeddings.projection.weight": np.repeat(kernel[:, None], 3, axis=1) / 3,
        "embeddings.patch_embeddings.projection.bias": anchor - GREY * kernel.sum(axis=(1, 2)),
        # The closing norm divides by a token's length, of which the anchor is most: nearly a constant, so
        # that brightness survives. The norm's bias then takes the anchor itself away.
        "layernorm.weight": np.full(width, 2.0),
        "layernorm.bias": -2.0 * math.sqrt(width) * anchor / WHOLE,
        **_linear("pooler.dense", width, width, rng),
    }
    for number in range(vit.layers):
        block = f"encoder.layer.{number}"
        for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            weights |= _linear(f"{block}.{name}", width, width, rng)
        weights |= _linear(f"{block}.attention.output.dense", width, width, rng)
        opening, bias = hidden_units(code, UNITS * shares.seen, min(LOOKS, shares.look), rng)
        reading = np.concatenate([place, look[:, : opening.shape[1] - shares.place]], axis=1)
        signs = np.resize([1.0, -1.0], UNITS * shares.seen)
        passing = np.repeat(seen, UNITS, axis=1) * signs
        weights |= {
            f"{block}.intermediate.dense.weight": opening @ reading.T * WHOLE / math.sqrt(width),
            f"{block}.intermediate.dense.bias": bias,
            f"{block}.output.dense.weight": SEEN * passing,
            f"{block}.output.dense.bias": np.zeros(width),
        }
        for norm in ("layernorm_before", "layernorm_after"):
            weights |= {f"{block}.{norm}.weight": np.ones(width), f"{block}.{norm}.bias": np.zeros(width)}
    return weights


def _linear(name: str, outputs: int, inputs: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    weight = BRANCH * rng.standard_normal((outputs, inputs)) / math.sqrt(inputs)
    return {f"{name}.weight": weight, f"{name}.bias": np.zeros(outputs)}


def patch_functions(patch_size: int, count: int) -> np.ndarray:
    """The lowest functions of the orthonormal DCT-II of a grey patch, float64 [count, patch_size, patch_size].

    Each has a gain that makes up for the fall of natural spectra. A patch of fewer pixels than `count` has no more
    functions: zeros follow.
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


def place_code(side: int, width: int) -> np.ndarray:
    """A smooth code of the place of each patch, float64 [side * side, width], each of norm PLACE.

    Sine and cosine of the row and of the column, of wavelengths from a quarter of the image to twice its side.
    """
    rows, columns = np.divmod(np.arange(side * side), side)
    waves = 2 * np.pi / (side * np.geomspace(2.0, 0.25, width // 4))
    angles = [place[:, None] * waves for place in (rows, columns)]
    code = np.concatenate([part(angle) for angle in angles for part in (np.sin, np.cos)], axis=1)
    return PLACE * code / math.sqrt(width / 2)


def hidden_units(
    code: np.ndarray, count: int, looks: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [count, place + looks] and biases [count] of units on places' codes [places, place] and on looks."""
    on_place = rng.standard_normal((count, code.shape[1]))
    openness = code @ on_place.T  # (places, count)
    on_place /= openness.std(0)[:, None]
    on_look = rng.standard_normal((count, looks)) / math.sqrt(looks)
    bias = -openness.mean(0) / openness.std(0) - SHUT
    return np.concatenate([on_place, on_look], axis=1), bias
