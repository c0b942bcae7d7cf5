"""The first image loss (TIG, Eq. 23) of each preset, as means and as norms: `python -m benchmarks.first_image_loss FOLDER`.

FOLDER holds radiographs (JPEG or PNG), of which the first `--images` are taken. The image generator of each preset, at its
full size with its initial weights, reconstructs them once in training mode, from random latents of the scale that a layer
norm leaves (mean 0, variance 1). Reported is each term of Eq. 23 in two readings:

    mean   mean over elements, as the authors' code has it and ours
    norm   L2 norm over all elements of an image, as Eq. 23 is printed, in the mean over images

and the loss: the sum with the preset's weights. `authors` is the generator of the authors' code layer by layer, written
from torch.nn alone, with what `release` does not take over (docs/presets.md). `--save` writes
benchmarks/results/first_image_loss-DATE.json. The authors' decoder takes 3 GB and a minute per image on a core.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import records
from benchmarks.training_step import config
from medunifier.data.image_decoding import decode_image
from medunifier.huggingface.modeling_medunifier import MedUnifierConfig
from medunifier.model.image_decoders import ResidualDecoder
from medunifier.model.image_generator import ImageGenerator
from medunifier.model.image_layers import ResidualLayer, sinusoidal_positions
from medunifier.model.network import MedUnifierNetwork

PRESETS = ("paper", "lean", "release", "authors")


def read_images(folder: Path, number: int, channels: int) -> torch.Tensor:
    """Return the first radiographs of a folder, by name: (number, channels, 224, 224) in [0, 1]."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".png", ".jpg", ".jpeg"})
    grey = torch.stack([torch.from_numpy(decode_image(path, 224, "squash")) for path in paths[:number]])
    return (grey.float() / 255)[:, None].expand(-1, channels, -1, -1)


def build_generator(c: MedUnifierConfig) -> ImageGenerator:
    """Return the image generator of a configuration, with its initial weights, and nothing else of the model."""
    alone = MedUnifierConfig(**c.to_dict() | {"layers": 1, "vocab_size": 8, "decode_token_id": 4})
    return MedUnifierNetwork(alone).image_generator


class AuthorsGenerator(nn.Module):
    """The image generator of the authors' code at its size, up to the codes' straight-through gradient.

    One residual layer stands three times in each adapter, by the same weights. Returned are images, and for each level
    the latents and the codes nearest to them.
    """

    def __init__(self, vision: int = 1408, width: int = 768, codes: int = 512):
        super().__init__()
        self.maps = nn.ModuleList(
            nn.Sequential(nn.Linear(source, inner), nn.ReLU(), nn.Linear(inner, width))
            for source, inner in ((width, 2 * width), (vision + width, width))
        )
        self.layers = nn.ModuleList(ResidualLayer(width) for _ in range(3))  # adapters, top decoder
        self.codebooks = nn.ParameterList(
            torch.empty(codes, dimension).uniform_(-1 / codes, 1 / codes) for dimension in (width, 2 * width)
        )
        self.doublings = nn.ModuleList(nn.ConvTranspose2d(width, width, 4, 2, 1) for _ in range(2))
        self.decoder = ResidualDecoder(3 * width, (3 * width, 6 * width, 6 * width, 3 * width), 3, "batch")

    def adapt(self, level: int, tokens: torch.Tensor, rows: int) -> torch.Tensor:
        """Return z_e of the tokens of a level, which lie in `rows` rows."""
        x = self.maps[level](tokens).transpose(1, 2).unflatten(2, (rows, -1))
        x = x + sinusoidal_positions(x.shape[1], *x.shape[2:], x)
        x = F.interpolate(x, [8, 8]) if level == 0 else x
        for _ in range(3):
            x = self.layers[level](x)
        return x

    def nearest(self, level: int, z: torch.Tensor) -> torch.Tensor:
        """Return the code nearest to each latent, in the latents' shape."""
        flat = z.permute(0, 2, 3, 1)
        codes = self.codebooks[level][torch.cdist(flat.flatten(0, 2), self.codebooks[level]).argmin(1)]
        return codes.view_as(flat).permute(0, 3, 1, 2)

    def forward(
        self, queries: torch.Tensor, patches: torch.Tensor, text: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Reconstruct images from query outputs, patch tokens and [CLS], as `ImageGenerator.forward`."""
        top = self.adapt(0, queries, 4)
        top_codes = self.nearest(0, top)
        beside = self.doublings[0](self.layers[2](top_codes))
        text = text[:, None].expand(-1, patches.shape[1], -1)
        bottom = torch.cat([self.adapt(1, torch.cat([patches, text], 2), 16), beside], 1)
        codes = [top_codes, self.nearest(1, bottom)]
        return self.decoder(self.doublings[1](top_codes), codes[1]), [top, bottom], codes


def readings(difference: torch.Tensor) -> dict[str, float]:
    """Return the mean square over elements, and the mean L2 norm of an image, of a difference (B, ...)."""
    squares = difference.double().square().flatten(1)
    return {"mean": squares.mean().item(), "norm": squares.sum(1).sqrt().mean().item()}


def first_loss(preset: str, folder: Path, number: int) -> dict[str, dict[str, float]]:
    """Return the terms of Eq. 23 and their weighted sum before the first step, in both readings."""
    c = config("release" if preset == "authors" else preset)
    torch.manual_seed(0)
    generator = (AuthorsGenerator() if preset == "authors" else build_generator(c)).train()
    images = read_images(folder, number, c.image_channels)
    queries, text = torch.randn(number, c.queries, c.width), torch.randn(number, c.width)
    patches = torch.randn(number, c.vision_tokens - 1, c.vision_width)
    latents: list[torch.Tensor] = []
    with torch.no_grad():
        if isinstance(generator, AuthorsGenerator):
            made, latents, codes = generator(queries, patches, text)
        else:
            for quantizer in (generator.top_quantizer, generator.bottom_quantizer):
                quantizer.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0]))
            found = generator(queries, patches, text)
            made, codes = found.images, [found.top.latents, found.bottom.latents]
    terms = {"images": readings(made - images)}
    for level, z, chosen in zip(("top", "bottom"), latents, codes, strict=True):
        terms[f"{level}_codes"] = readings(chosen - z)
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
    parser.add_argument("--images", type=int, default=4, help="of them, in one batch (4)")
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
