"""Grids of images: order, padding and metadata."""

import numpy as np
from PIL import Image

from medunifier.synthesis.image_grids import write_grid, write_pairs
from medunifier.synthesis.png_metadata import read_png


def test_grid_pads_shorter_lines(tmp_path):
    real, generated = np.zeros((3, 4, 5), np.uint8), np.full((2, 4, 5), 9, np.uint8)
    write_grid(tmp_path / "grid.png", real, generated)
    grid = np.array(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (8, 15)
    assert [grid[row, 0] for row in (0, 4)] == [0, 9]
    assert (grid[4:, 10:] == 255).all()
    _, fields = read_png(tmp_path / "grid.png")
    assert (fields["synthetic"], fields["model"]) == ("in part", "MedUnifier")


def test_reconstructions_stand_below_their_images(tmp_path):
    real = np.arange(5, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    write_pairs(tmp_path / "pairs.png", real, real + 100, columns=3)
    grid, _ = read_png(tmp_path / "pairs.png")
    expected = [[0, 1, 2], [100, 101, 102], [3, 4, 255], [103, 104, 255]]
    assert grid[::2, ::2].tolist() == expected and (grid[1::2, 1::2] == grid[::2, ::2]).all()
