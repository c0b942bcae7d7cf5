"""Small random image encoders, saved by their own libraries, and their preprocessing."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def save_unit_processor(folder, size=224):
    """Write the preprocessing of an encoder that reads pixels in [0, 1]."""
    settings = {"do_normalize": False, "do_rescale": True, "do_resize": True, "resample": 3, "size": size}
    (Path(folder) / "preprocessor_config.json").write_text(json.dumps(settings))


def radiographs(side, count=2, seed=0):
    """Grey images with structure at all scales, uint8 [count, side, side]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8)).astype(np.uint8)
    smooth = [Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC) for c in coarse]
    noise = rng.integers(-25, 26, (count, side, side))
    return np.clip(np.stack(smooth).astype(int) + noise, 0, 255).astype(np.uint8)


def pixels_of(images):
    """Images as our code holds them: float32 (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1).float() / 255


def pictures(images):
    """The same images as a library's processor takes them."""
    return [Image.fromarray(image).convert("RGB") for image in images]


def scramble(network, seed=0):
    """Give every weight a random value: those that start at 0 or 1 would hide a wrong place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def with_first(first, patches):
    """Tokens (B, 1 + n, width) of a vector for the whole image and the patches."""
    return torch.cat([first[:, None], patches], 1)


def deepest(features):
    """Tokens of feature maps (B, width, h, w), their mean first."""
    return with_first(features.mean((2, 3)), features.flatten(2).transpose(1, 2))
