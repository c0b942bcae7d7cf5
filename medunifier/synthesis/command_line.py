"""The command by hand of generate_images: images of one prompt, or the verification of PNGs."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

from medunifier.evaluation.items import batches
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Params, load_params
from medunifier.synthesis.generator import load_generator
from medunifier.synthesis.png_metadata import write_png
from medunifier.synthesis.sampler import SamplingSettings
from medunifier.synthesis.verification import verify_pngs

SEED_LIMIT = 2**63  # seeds are below it: a column of 64-bit integers holds them
MAX_SAMPLES = 10_000  # images of one call


def run_by_hand(arguments: Sequence[str], description: str) -> None:
    """Run the command with options: generate images of a prompt, or verify PNGs.

    Args:
        arguments: the command line without the program's name.
        description: first part of the help text.

    Raises:
        InputError: for everything that the user can correct.
    """
    parser = _parser(description)
    options = parser.parse_args(arguments)
    if options.verify:
        verify_pngs(options.verify)
        return
    if options.out is None:
        parser.error("--out is needed beside --prompt")
    generate_from_prompt(options, load_params())


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stages.generate_images",
        usage="%(prog)s VARIANT | --prompt TEXT --out DIR [options] | --verify FILE.png ...",
        description=description,
        epilog="Run from the repository root; defaults come from `generate` in params.yaml.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--prompt", metavar="TEXT", help="what the images show, in the words of a report")
    action.add_argument(
        "--verify",
        metavar="FILE.png",
        nargs="+",
        help="paths of PNGs of generate_images: generate them again and compare the pixels",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="path of the folder for the PNGs")
    parser.add_argument(
        "--samples",
        type=_samples,
        default=4,
        metavar="N",
        help=f"number of images, from 1 to {MAX_SAMPLES} (default: 4)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="seed of the first image, a whole number from 0 on; the others count on (default: `seed`)",
    )
    parser.add_argument(
        "--guidance", type=float, metavar="X", help="number from 0 on: weight of the prompt; 1: as trained"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help="number from 0 on; below 1: more alike, above: more diverse; 0: likeliest codes",
    )
    parser.add_argument(
        "--variant", metavar="NAME", help="name of a model in trained.tig (default: the first)"
    )
    return parser


def _samples(text: str) -> int:
    """Read the value of `--samples`; argparse shows the error beside the option's name."""
    if not text.isdecimal() or not 1 <= int(text[:20]) <= MAX_SAMPLES:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no whole number from 1 to {MAX_SAMPLES}; for more images call again with another "
            "--seed, or set `generate.samples` in params.yaml and run the stage"
        )
    return int(text)


def generate_from_prompt(options: argparse.Namespace, params: Params) -> None:
    """Generate `options.samples` images of `options.prompt` in `options.out` and print their paths."""
    prompt = options.prompt.strip()
    if not prompt:
        raise InputError("--prompt: the prompt is empty; describe what the image should show")
    variant = next(iter(params.trained.tig), None) if options.variant is None else options.variant
    if variant not in params.trained.tig:
        raise InputError(
            f"--variant: {variant!r} has no image generator; trained.tig in params.yaml names: "
            f"{', '.join(params.trained.tig) or 'none'}"
        )
    settings = _settings(options, params)
    first = params.seed if options.seed is None else options.seed
    if not 0 <= first <= SEED_LIMIT - options.samples:
        raise InputError(f"--seed: {first} is not between 0 and {SEED_LIMIT - options.samples}")
    generator = load_generator(variant)
    generator.check_prompt(options.prompt, "--prompt")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=options.out) as file:  # refused now rather than after an hour of generation
            file.write(b"0")
    except OSError as error:
        raise InputError(f"--out: {options.out} is no folder to write to ({error.strerror})") from error
    name = "-".join(re.findall(r"\w+", prompt.lower()))[:60] or "prompt"
    for part in batches(options.samples, params.generate.batch_size, "generate"):
        seeds = list(range(first + part.start, first + part.stop))
        images = generator.generate([prompt] * len(seeds), seeds, settings)
        for seed, pixels in zip(seeds, images.pixels, strict=True):
            path = options.out / f"{name}-{seed}.png"
            write_png(path, pixels, generator.png_fields(prompt, seed, settings))
            print(path)


def _settings(options: argparse.Namespace, params: Params) -> SamplingSettings:
    """Return the settings of params.yaml with those of the command line in their place."""
    settings = SamplingSettings.from_params(params.generate)
    for name in ("temperature", "guidance"):
        value = getattr(options, name)
        if value is not None:
            if not 0 <= value < math.inf:
                raise InputError(f"--{name}: {value} is no number of at least 0")
            settings = replace(settings, **{name: value})
    return settings
