"""Generate radiographs from a prompt.

python examples/generate_images.py PROJECT "There is a large left pleural effusion." --out generated
"""

import argparse
from contextlib import chdir
from pathlib import Path

from medunifier.synthesis.generator import load_generator
from medunifier.synthesis.png_metadata import write_png
from medunifier.synthesis.sampler import SamplingSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", help="folder with models/VARIANT and models/priors/VARIANT-top, -bottom")
    parser.add_argument("prompt", help="content of the images, in the words of a report")
    parser.add_argument("--variant", default="full")
    parser.add_argument("--samples", type=int, default=4, help="number of images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image; the others count on")
    parser.add_argument("--out", type=Path, default=Path("generated"), help="folder for the PNGs")
    arguments = parser.parse_args()

    settings = SamplingSettings(temperature=1.0, guidance=2.0)
    seeds = [arguments.seed + number for number in range(arguments.samples)]
    with chdir(arguments.project):  # models/ is read from the working directory
        generator = load_generator(arguments.variant)
        generated = generator.generate([arguments.prompt] * len(seeds), seeds, settings)
    for seed, pixels in zip(seeds, generated.pixels, strict=True):  # uint8 [224, 224]
        path = arguments.out / f"{seed}.png"
        write_png(path, pixels, generator.png_fields(arguments.prompt, seed, settings))
        print(path)


if __name__ == "__main__":
    main()
