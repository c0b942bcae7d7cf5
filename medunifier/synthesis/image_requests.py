"""Decide which images a set holds, generate them, and write the set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.evaluation.items import batches, seeded_rows, usable_items
from medunifier.runtime.params import Params
from medunifier.storage.image_shards import ImageStore
from medunifier.storage.tables import PREPARED, read_table
from medunifier.synthesis.generated_sets import GENERATED, write_generated_set
from medunifier.synthesis.generator import GeneratedImages, Generator
from medunifier.synthesis.png_metadata import write_png
from medunifier.synthesis.prompts import read_prompts
from medunifier.synthesis.sampler import SamplingSettings
from medunifier.tracking import Run


@dataclass(frozen=True)
class ImageRequest:
    """An image to generate; the fields are columns of `GENERATED`."""

    seed: int
    prompt: str | None = None
    source_id: str | None = None
    row: int = 0


def request_sets(params: Params, run: Run, generator: Generator) -> dict[str, list[ImageRequest]]:
    """Return the images of each set, by its name; only the unconditional set where the priors take no text.

    Raises:
        InputError: if no report of the test split can be used, or if a prompt is unusable (see `read_prompts`) or
            too long.
    """
    settings = params.generate
    seeds = _seeds(params.seed, 0, settings.unconditional)
    requests = {"unconditional": [ImageRequest(s, row=i) for i, s in enumerate(seeds)]}
    if not generator.takes_text:
        run.log("no images from texts: these priors take none (prior.condition: none)")
        return requests
    requests["reports"] = _requests_from_reports(params, run)
    requests |= _requests_from_prompts(params, generator)
    return {name: wanted for name, wanted in requests.items() if wanted}


def _seeds(seed: int, number: int, count: int) -> list[int]:
    """Return the seeds of the images of set `number`; the first ones are the same for any `count`."""
    return np.random.default_rng([seed, number]).integers(2**31, size=count).tolist()


def _requests_from_reports(params: Params, run: Run) -> list[ImageRequest]:
    """Return one image for each of `generate.reports` test reports."""
    dataset = params.pretrain.dataset
    source = Path("data/prepared") / dataset / "test.parquet"
    store = ImageStore(Path("data/images") / dataset)
    items = usable_items(read_table(source, PREPARED), str(source), [store], run)
    items = items[seeded_rows(len(items), params.generate.reports, params.seed)]
    seeds = _seeds(params.seed, 1, len(items))
    return [
        ImageRequest(s, report, image_id, i)
        for i, (s, report, image_id) in enumerate(zip(seeds, items["report"], items["image_id"], strict=True))
    ]


def _requests_from_prompts(params: Params, generator: Generator) -> dict[str, list[ImageRequest]]:
    """Return the sets `prompts` (several samples each) and `strips` (one seed for a whole strip)."""
    settings, seed = params.generate, params.seed
    file = read_prompts(settings.prompts)
    for text in file.texts():
        generator.check_prompt(text, f"{settings.prompts}: {text[:60]!r}")
    samples = np.array(_seeds(seed, 2, len(file.prompts) * settings.samples)).reshape(len(file.prompts), -1)
    strip_seeds = _seeds(seed, 3, len(file.strips))
    return {
        "prompts": [
            ImageRequest(s, text, row=row)
            for row, text in enumerate(file.prompts)
            for s in samples[row].tolist()
        ],
        "strips": [
            ImageRequest(s, text, row=row)
            for row, (s, strip) in enumerate(zip(strip_seeds, file.strips, strict=True))
            for text in strip.prompts()
        ],
    }


def generate_set(
    generator: Generator,
    name: str,
    requests: Sequence[ImageRequest],
    settings: SamplingSettings,
    batch_size: int,
) -> tuple[pl.DataFrame, np.ndarray]:
    """Generate the images of a set.

    Args:
        generator: the model and its priors.
        name: of the set; image ids begin with it.
        requests: the images; all of them have a prompt, or none has.
        settings: how to sample.
        batch_size: images sampled at once; pixels do not depend on it.

    Returns:
        A table by the schema `GENERATED` and the pixels, uint8 [n, H, W].
    """
    parts: list[GeneratedImages] = []
    for part in batches(len(requests), batch_size, f"generate {name}"):
        texts = [request.prompt for request in requests[part] if request.prompt is not None] or None
        parts.append(generator.generate(texts, [request.seed for request in requests[part]], settings))
    table = pl.DataFrame(
        {
            "image_id": [f"{name}-{i:05}" for i in range(len(requests))],
            "prompt": [request.prompt for request in requests],
            "seed": [request.seed for request in requests],
            "source_id": [request.source_id for request in requests],
            "row": [request.row for request in requests],
            "top": np.concatenate([part.top for part in parts]),
            "bottom": np.concatenate([part.bottom for part in parts]),
        },
        schema=dict(GENERATED.columns),
    )
    return table, np.concatenate([part.pixels for part in parts])


def write_set(
    folder: Path,
    table: pl.DataFrame,
    pixels: np.ndarray,
    generator: Generator,
    settings: SamplingSettings,
    pngs: Sequence[int],
) -> None:
    """Write a set, and its images of the numbers `pngs` as PNGs with metadata in `folder/shown`."""
    write_generated_set(folder, table, pixels, pixels.shape[1])
    for i in pngs:
        row = table.row(i, named=True)
        fields = generator.png_fields(row["prompt"], row["seed"], settings)
        write_png(folder / "shown" / f"{row['image_id']}.png", pixels[i], fields)
