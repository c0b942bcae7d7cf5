"""Images and texts of the page: data URIs, pairs cut from a grid, wording that two reports share."""

from __future__ import annotations

import base64
import difflib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from medunifier.runtime.errors import InputError

SHARED_WORDS = 3  # a run of at least so many equal words is marked


def jpeg_uri(pixels: np.ndarray, quality: int = 88) -> str:
    """Return a grey image, uint8 [H, W], as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def grid_pairs(path: Path, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (original, reconstruction) pairs, uint8 [size, size], of a grid image.

    Rows of originals stand above the rows of their reconstructions. Places that are white in both hold no image.

    Raises:
        InputError: the size of the grid is no multiple of the size of an image.
    """
    with Image.open(path) as image:
        grid = np.asarray(image.convert("L"))
    height, width = grid.shape
    if height % (2 * size) or width % size:
        raise InputError(
            f"{path}: a grid of {width} x {height} pixels does not hold pairs of {size} x {size} images; "
            "run score_images again"
        )
    # (rows, columns, size, size)
    tiles = grid.reshape(height // size, size, width // size, size).swapaxes(1, 2)
    pairs = [
        (tiles[row, column], tiles[row + 1, column])
        for row in range(0, len(tiles), 2)
        for column in range(tiles.shape[1])
    ]
    return [pair for pair in pairs if not all((image == 255).all() for image in pair)]


def mark_shared(reference: str, prediction: str) -> tuple[Markup, Markup]:
    """Return both reports as HTML with the longer runs of words that they share in <mark>."""
    words = reference.split(), prediction.split()
    keys = [[word.lower().strip(".,;:") for word in side] for side in words]
    matcher = difflib.SequenceMatcher(None, *keys, autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if block.size >= SHARED_WORDS]
    return (
        Markup(" ").join(marked(words[0], [(block.a, block.size) for block in blocks])),
        Markup(" ").join(marked(words[1], [(block.b, block.size) for block in blocks])),
    )


def marked(words: list[str], runs: list[tuple[int, int]]) -> Iterator[Markup]:
    """Yield the words as HTML, each run (start, length) inside <mark>."""
    position = 0
    for start, length in runs:
        yield from map(escape, words[position:start])
        yield Markup("<mark>{}</mark>").format(" ".join(words[start : start + length]))
        position = start + length
    yield from map(escape, words[position:])
