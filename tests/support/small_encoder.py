"""A tiny, seeded, random ViT as an encoder's folder, for pipelines that only need some features.

Written by numpy, without transformers, which takes seconds to import and to write the same.
"""

import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.support.encoder_folders import save_unit_processor

FOLDER = "small_encoder"  # in a project; not below encoders/, which git ignores: clones of the project have it, too
VISION = {"folder": FOLDER, "levels": [], "size": None}  # the section `vision` of its params.yaml
IMAGE, PATCH = 224, 14  # pixels


def write_small_encoder(folder: Path, width: int = 32, heads: int = 2, seed: int = 0) -> Path:
    """Write a `ViTModel` of one block that reads pixels in [0, 1]; returns `folder`.

    Its tokens are [257, width]. The same seed gives the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": width,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "intermediate_size": 2 * width,
        "image_size": IMAGE,
        "patch_size": PATCH,
        "num_channels": 3,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_unit_processor(folder, IMAGE)
    rng, block = np.random.default_rng(seed), "encoder.layer.0"
    weights = {
        "embeddings.cls_token": rng.standard_normal((1, 1, width)),
        "embeddings.position_embeddings": rng.standard_normal((1, 1 + (IMAGE // PATCH) ** 2, width)),
        "embeddings.patch_embeddings.projection.weight": rng.standard_normal((width, 3, PATCH, PATCH))
        / PATCH,
        "embeddings.patch_embeddings.projection.bias": np.zeros(width),
    }
    linear = {f"{block}.attention.attention.{name}": (width, width) for name in ("query", "key", "value")}
    linear |= {
        f"{block}.attention.output.dense": (width, width),
        f"{block}.intermediate.dense": (2 * width, width),
        f"{block}.output.dense": (width, 2 * width),
        "pooler.dense": (width, width),
    }
    for name, (outputs, inputs) in linear.items():
        weights[f"{name}.weight"] = rng.standard_normal((outputs, inputs)) / math.sqrt(inputs)
        weights[f"{name}.bias"] = np.zeros(outputs)
    for norm in (f"{block}.layernorm_before", f"{block}.layernorm_after", "layernorm"):
        weights |= {f"{norm}.weight": np.ones(width), f"{norm}.bias": np.zeros(width)}
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
