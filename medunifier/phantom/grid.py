"""A grid of phantom radiographs with captions: the artifact of `simulate` in MLflow, and docs/phantom_grid.png.

The latter is written by `python -m medunifier.phantom.grid [PATH]`.
"""

import io
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medunifier.phantom.anatomy import draw_anatomy
from medunifier.phantom.findings import Finding
from medunifier.phantom.reports import Facts
from medunifier.phantom.studies import Study, render_view

TILE, CAPTION, COLUMNS, GREYS = 224, 22, 5, 48  # pixels, pixels, tiles, number of grey values (a small file)
CAPTION_LETTERS = 34  # that are not wider than a tile
TILES: tuple[tuple[str, str, tuple[Finding, ...], str], ...] = (  # caption, view, findings, device
    ("normal", "PA", (), "none"),
    ("severe cardiomegaly", "PA", (Finding("cardiomegaly", "none", "none", 3),), "pacemaker"),
    ("moderate pulmonary edema", "AP", (Finding("edema", "both", "none", 2),), "none"),
    ("moderate right effusion", "PA", (Finding("pleural_effusion", "right", "lower", 2),), "none"),
    ("moderate left pneumothorax", "PA", (Finding("pneumothorax", "left", "upper", 2),), "none"),
    ("moderate right atelectasis", "PA", (Finding("atelectasis", "right", "lower", 2),), "none"),
    ("severe left pneumonia", "AP", (Finding("pneumonia", "left", "mid", 3),), "central line"),
    ("right upper consolidation", "PA", (Finding("consolidation", "right", "upper", 3),), "none"),
    ("lateral, normal", "LATERAL", (), "none"),
    ("lateral, effusion", "LATERAL", (Finding("pleural_effusion", "left", "lower", 2),), "none"),
)


def render_grid(seed: int = 0) -> Image.Image:
    """Render the grid of TILES, each of another patient."""
    tiles = []
    for number, (text, view, findings, device) in enumerate(TILES):
        anatomy = draw_anatomy(np.random.default_rng([seed, number]))
        anatomy = replace(anatomy, scoliosis=0.0) if number else anatomy
        pixels = render_view(Facts(anatomy, findings, device, view == "AP"), view, [seed, number, 1], 320)
        tiles.append((text, Image.fromarray(pixels)))
    return tile_grid(tiles)


def study_tiles(studies: Iterable[Study]) -> list[tuple[str, Image.Image]]:
    """Return every image of some studies, with its view and findings as caption, for `tile_grid`."""
    return [
        (caption(study, radiograph.view), Image.open(io.BytesIO(radiograph.jpg)))
        for study in studies
        for radiograph in study.radiographs
    ]


def caption(study: Study, view: str) -> str:
    """Return the view of an image and the names of its findings, shortened to the width of a tile."""
    names = ", ".join(finding.name.replace("_", " ") for finding in study.facts.findings)
    return textwrap.shorten(f"{view or 'no view'}: {names or 'normal'}", CAPTION_LETTERS, placeholder=" …")


def tile_grid(tiles: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Combine square grey images of any size and their captions in one image, COLUMNS a row."""
    rows = -(-len(tiles) // COLUMNS)
    whole = Image.new("L", (COLUMNS * TILE, rows * (TILE + CAPTION)), 255)
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(13)
    for number, (text, image) in enumerate(tiles):
        left, top = number % COLUMNS * TILE, number // COLUMNS * (TILE + CAPTION)
        whole.paste(image.resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top))
        pen.text((left + TILE / 2, top + TILE + CAPTION / 2), text, fill=0, font=font, anchor="mm")
    return whole.quantize(GREYS)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/phantom_grid.png")
    target.parent.mkdir(parents=True, exist_ok=True)
    render_grid().save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")
