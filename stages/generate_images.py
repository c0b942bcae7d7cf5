"""Stage generate_images: images out of nothing, out of test reports and out of prompts (paper section 4.2, Fig. 3)."""

from __future__ import annotations

import argparse
import inspect
import math
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.evaluation.loading import batches, seeded_rows, usable_items
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Generate, Params, load_params
from medunifier.stage import refuse, run_stage, set_library_defaults
from medunifier.storage.image_shards import ImageStore
from medunifier.storage.tables import PREPARED, read_table
from medunifier.synthesis.generated_sets import DRAWN, write_drawn
from medunifier.synthesis.generator import Generator, Settings, draw_again, load_generator
from medunifier.synthesis.png_metadata import write_png
from medunifier.synthesis.prompts import read_prompts
from medunifier.tracking import Run

SHOWN_SAMPLES = 4  # images of each prompt that become PNGs
SETS = ("unconditional", "reports", "prompts", "strips")
SEEDS = 2**63  # from 0 on: as many as a column of integers holds


@dataclass(frozen=True)
class Order:
    """An image to draw; the fields are columns of `DRAWN`."""

    seed: int
    prompt: str | None = None
    source_id: str | None = None
    row: int = 0


def generate_images(params: Params, run: Run, variant: str) -> None:
    """Draw images with the model VARIANT and its priors, in four sets under data/generated/VARIANT:

    unconditional   without a text, as the paper does
    reports         from reports of the test split, one image each
    prompts         from each prompt of the file generate.prompts, generate.samples images each
    strips          from the strips of that file: the same seed, one word of the prompt changes

    The last three need priors that were trained with prior.condition: text. A set is a store of pixels with a
    table of prompts, seeds and codes; some of its images are PNGs, too, in the folder `shown`, and these say what
    they were drawn from. `python -m stages.generate_images --verify FILE.png` draws such an image again.

    By hand, with any trained model: `python -m stages.generate_images --prompt TEXT --samples 4 --out DIR`.
    """
    settings = params.generate
    generator = load_generator(variant)
    orders = order_sets(params, run, generator)
    root = Path("data/generated") / variant
    if root.exists():
        shutil.rmtree(root)
    shown = {"unconditional": settings.shown, "reports": settings.shown}
    for name, wanted in orders.items():
        run.log(f"draw {len(wanted)} images: {name}")
        if name == "prompts":
            pngs = [i for i in range(len(wanted)) if i % settings.samples < SHOWN_SAMPLES]
        else:
            pngs = range(min(len(wanted), shown.get(name, len(wanted))))
        draw_set(generator, root / name, name, wanted, sampling(settings), settings.batch_size, set(pngs))
        run.metrics({f"n_{name}": len(wanted)})
    for path in sorted(root.glob("prompts/shown/*.png"))[:SHOWN_SAMPLES]:
        run.artifact(path)


def order_sets(params: Params, run: Run, generator: Generator) -> dict[str, list[Order]]:
    """The images of each set, by its name; only the unconditional set where the priors take no text."""
    settings, seed = params.generate, params.seed

    def seeds(number: int, count: int) -> list[int]:
        """Seeds of set `number`, the same for any count."""
        return np.random.default_rng([seed, number]).integers(2**31, size=count).tolist()

    orders = {"unconditional": [Order(s, row=i) for i, s in enumerate(seeds(0, settings.unconditional))]}
    if not generator.takes_text:
        run.log("no images from texts: these priors take none (prior.condition: none)")
        return orders
    dataset = params.pretrain.dataset
    source = Path("data/prepared") / dataset / "test.parquet"
    store = ImageStore(Path("data/images") / dataset)
    items = usable_items(read_table(source, PREPARED), str(source), [store], run)
    items = items[seeded_rows(len(items), settings.reports, seed)]
    orders["reports"] = [
        Order(s, report, image_id, i)
        for i, (s, report, image_id) in enumerate(
            zip(seeds(1, len(items)), items["report"], items["image_id"], strict=True)
        )
    ]
    file = read_prompts(settings.prompts)
    for text in file.texts():
        generator.check_length(text, f"{settings.prompts}: {text[:60]!r}")
    samples = np.array(seeds(2, len(file.prompts) * settings.samples)).reshape(len(file.prompts), -1)
    orders["prompts"] = [
        Order(s, text, row=row) for row, text in enumerate(file.prompts) for s in samples[row].tolist()
    ]
    orders["strips"] = [
        Order(s, text, row=row)
        for row, (s, strip) in enumerate(zip(seeds(3, len(file.strips)), file.strips, strict=True))
        for text in strip.prompts()
    ]
    return {name: wanted for name, wanted in orders.items() if wanted}


def draw_set(
    generator: Generator,
    folder: Path,
    name: str,
    orders: Sequence[Order],
    settings: Settings,
    batch_size: int,
    pngs: set[int],
) -> None:
    """Draws a set and writes it; those of the numbers `pngs` as PNGs, too."""
    parts = []
    for part in batches(len(orders), batch_size, f"draw {name}"):
        texts = None if orders[part.start].prompt is None else [order.prompt for order in orders[part]]
        parts.append(generator.draw(texts, [order.seed for order in orders[part]], settings))
    pixels, top, bottom = (
        np.concatenate([getattr(part, field) for part in parts]) for field in ("pixels", "top", "bottom")
    )
    table = pl.DataFrame(
        {
            "image_id": [f"{name}-{i:05}" for i in range(len(orders))],
            "prompt": [order.prompt for order in orders],
            "seed": [order.seed for order in orders],
            "source_id": [order.source_id for order in orders],
            "row": [order.row for order in orders],
            "top": top,
            "bottom": bottom,
        },
        schema=dict(DRAWN.columns),
    )
    write_drawn(folder, table, pixels, pixels.shape[1])
    for i in sorted(pngs):
        fields = generator.fields(orders[i].prompt, orders[i].seed, settings)
        write_png(folder / "shown" / f"{table['image_id'][i]}.png", pixels[i], fields)


def sampling(settings: Generate) -> Settings:
    """What the sampler obeys among the parameters of this stage."""
    return Settings(settings.temperature, settings.top_k, settings.top_p, settings.guidance)


def by_hand(arguments: Sequence[str]) -> None:
    """The command with options: draws images of a prompt, or verifies PNGs. InputError for what a user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.generate_images",
        usage="%(prog)s VARIANT | --prompt TEXT --out DIR [options] | --verify FILE.png ...",
        description=inspect.getdoc(generate_images),
        epilog="Run from the repository root; what is not given comes from `generate` in params.yaml.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", metavar="TEXT", help="what the images show, in the words of a report")
    what.add_argument(
        "--verify", metavar="FILE.png", nargs="+", help="draw these again and compare the pixels"
    )
    parser.add_argument("--samples", type=int, default=4, help="number of images (default: 4)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the PNGs")
    parser.add_argument("--seed", type=int, help="of the first image; the others count on (default: `seed`)")
    parser.add_argument("--guidance", type=float, help="how strongly the prompt counts; 1: as trained")
    parser.add_argument(
        "--temperature", type=float, help="below 1: more alike, above: more diverse; 0: likeliest"
    )
    parser.add_argument("--variant", help="a model of trained.tig (default: the first)")
    options = parser.parse_args(arguments)
    if options.verify:
        verify(options.verify)
        return
    if options.out is None:
        parser.error("--out is needed beside --prompt")
    if options.samples < 1:
        parser.error("--samples must be at least 1")
    draw_prompt(options, load_params())


def draw_prompt(options: argparse.Namespace, params: Params) -> None:
    """Draws `options.samples` images of `options.prompt` into `options.out` and prints their paths."""
    if not options.prompt.strip():
        raise InputError("--prompt: the prompt is empty; say what the image shall show")
    variant = options.variant or next(iter(params.trained.tig), None)
    if variant not in params.trained.tig:
        raise InputError(
            f"--variant: {variant} has no image generator; trained.tig in params.yaml names: "
            f"{', '.join(params.trained.tig) or 'none'}"
        )
    chosen = vars(sampling(params.generate))
    chosen |= {
        key: value for key in ("guidance", "temperature") if (value := getattr(options, key)) is not None
    }
    settings, first = Settings(**chosen), params.seed if options.seed is None else options.seed
    for name in ("temperature", "guidance"):
        value = getattr(settings, name)
        if not 0 <= value < math.inf:
            raise InputError(f"--{name}: {value} is no number of at least 0")
    if not 0 <= first <= SEEDS - options.samples:
        raise InputError(f"--seed: {first} is not between 0 and {SEEDS - options.samples}")
    generator = load_generator(variant)
    generator.check_length(options.prompt, "--prompt")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: {options.out} is no folder to write to ({error.strerror})") from error
    prompt = options.prompt.strip()
    name = "-".join(re.findall(r"\w+", prompt.lower()))[:60] or "prompt"
    for part in batches(options.samples, params.generate.batch_size, "draw"):
        seeds = list(range(first + part.start, first + part.stop))
        drawn = generator.draw([prompt] * len(seeds), seeds, settings)
        for seed, pixels in zip(seeds, drawn.pixels, strict=True):
            path = options.out / f"{name}-{seed}.png"
            write_png(path, pixels, generator.fields(prompt, seed, settings))
            print(path)


def verify(paths: Sequence[str]) -> None:
    """Draws each PNG again from its fields and prints the outcome; InputError if pixels differ."""
    generator, different = None, 0
    for path in paths:
        pixels, generator = draw_again(path, generator)
        print(f"{path}: {f'{pixels} pixels differ' if pixels else 'the same pixels'}")
        different += pixels > 0
    if different:
        raise InputError(
            f"{different} of {len(paths)} images are not what their fields say: edited, or drawn on other hardware"
        )


if __name__ == "__main__":
    if any(argument.startswith("-") for argument in sys.argv[1:]):
        set_library_defaults()
        try:
            by_hand(sys.argv[1:])
        except InputError as error:
            sys.exit(refuse("generate_images", str(error)))
    else:
        run_stage(generate_images, arguments=("variant",))
