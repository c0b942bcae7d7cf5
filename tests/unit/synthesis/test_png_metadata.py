"""PNGs with text fields: pixels and fields come back; other files are rejected."""

import numpy as np
import pytest
from PIL import Image

from medunifier.runtime.errors import InputError
from medunifier.synthesis.png_metadata import read_png, write_png


def test_pixels_and_fields_come_back(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    fields = {"synthetic": "true", "prompt": "Épanchement pleural à gauche\n(ärztlich) ✓", "seed": "7"}
    write_png(tmp_path / "new" / "a.png", pixels, fields)
    found, read = read_png(tmp_path / "new" / "a.png")
    assert (found == pixels).all() and read == fields
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_other_files_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.png: not a readable PNG"):
        read_png(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text.png: not a readable PNG"):
        read_png(tmp_path / "text.png")
    write_png(tmp_path / "cut.png", np.zeros((99, 99), np.uint8), {"a": "b"})
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-30])
    with pytest.raises(InputError, match=r"cut.png"):
        read_png(tmp_path / "cut.png")
    grey = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    for name, image in {
        "RGB": grey.convert("RGB"),
        "P": grey.quantize(16),
        "I;16": grey.convert("I;16"),
    }.items():
        image.save(tmp_path / "colour.png")
        with pytest.raises(
            InputError, match=rf"colour.png: expected an image of 8-bit grey \(L\), found {name}"
        ):
            read_png(tmp_path / "colour.png")
