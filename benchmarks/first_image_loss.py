"""The first image loss (TIG, Eq. 23) of each preset, as means and as norms: `python -m benchmarks.first_image_loss FOLDER`.

FOLDER holds radiographs (JPEG or PNG), of which the first `--images` are taken. The image generator of each preset, at its
full size with its initial weights, reconstructs them once in training mode, from random latents of the scale that a layer
norm leaves (mean 0, variance 1). Reported is each term of Eq. 23 in two readings:

    mean   mean over elements, as the authors' code has it and ours
    norm   L2 norm over all elements of an image, as Eq. 23 is printed, in the mean over images

and the loss: the sum with the preset's weights. `--save` writes benchmarks/results/first_image_loss-DATE.json. The authors'
decoder takes 3 GB and some 20 s per image on a core.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks import records
from benchmarks.training_step import config
from medunifier.data.image_decoding import decode_image
from medunifier.huggingface.modeling_medunifier import MedUnifierConfig
from medunifier.model.image_generator import ImageGenerator
from medunifier.model.network import MedUnifierNetwork

PRESETS = ("paper", "lean", "release")


def read_images(folder: Path, number: int, channels: int) -> torch.Tensor:
    """Return the first radiographs of a folder, by name: (number, channels, 224, 224) in [0, 1]."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".png", ".jpg", ".jpeg"})
    grey = torch.stack([torch.from_numpy(decode_image(path, 224, "squash")) for path in paths[:number]])
    return (grey.float() / 255)[:, None].expand(-1, channels, -1, -1)


def build_generator(c: MedUnifierConfig) -> ImageGenerator:
    """Return the image generator of a configuration, with its initial weights, and nothing else of the model."""
    alone = MedUnifierConfig(**c.to_dict() | {"layers": 1, "vocab_size": 8, "decode_token_id": 4})
    return MedUnifierNetwork(alone).image_generator


def readings(difference: torch.Tensor) -> dict[str, float]:
    """Return the mean square over elements, and the mean L2 norm of an image, of a difference (B, ...)."""
    squares = difference.double().square().flatten(1)
    return {"mean": squares.mean().item(), "norm": squares.sum(1).sqrt().mean().item()}


def first_loss(preset: str, folder: Path, number: int) -> dict[str, dict[str, float]]:
    """Return the terms of Eq. 23 and their weighted sum before the first step, in both readings."""
    c = config(preset)
    torch.manual_seed(0)
    generator, images = build_generator(c).train(), read_images(folder, number, c.image_channels)
    queries, text = torch.randn(number, c.queries, c.width), torch.randn(number, c.width)
    patches = torch.randn(number, c.vision_tokens - 1, c.vision_width)
    latents: list[torch.Tensor] = []
    for quantizer in (generator.top_quantizer, generator.bottom_quantizer):
        quantizer.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0]))
    with torch.no_grad():
        made = generator(queries, patches, text)
    terms = {"images": readings(made.images - images)}
    for level, z, quantised in zip(("top", "bottom"), latents, (made.top, made.bottom), strict=True):
        terms[f"{level}_codes"] = readings(quantised.latents - z)
    weight = c.codebook_weight + c.commitment  # before the first step both terms have the same value
    terms["loss"] = {
        kind: terms["images"][kind] + weight * (terms["top_codes"][kind] + terms["bottom_codes"][kind])
        for kind in ("mean", "norm")
    }
    return {name: {k: float(f"{v:.4g}") for k, v in term.items()} for name, term in terms.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder with radiographs")
    parser.add_argument("--images", type=int, default=8, help="of them, in one batch (8)")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS, help="these alone (all)")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/first_image_loss-DATE.json"
    )
    arguments = parser.parse_args()
    found = {}
    for preset in arguments.presets:
        found[preset] = first_loss(preset, arguments.folder, arguments.images)
        print(preset, json.dumps(found[preset], indent=1), flush=True)
    if arguments.save:
        about = {"radiographs": arguments.folder.name, "images": arguments.images, "terms": found}
        records.save("first_image_loss", "python -m benchmarks.first_image_loss FOLDER --save", about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
