"""Reconstruction metrics against means by hand, and the error for images of another size."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from medunifier.image_scoring.image_batches import StoredImages, in_batches
from medunifier.image_scoring.reconstruction import SCORES, reconstruct, reconstruction_metrics
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.runtime.errors import InputError
from medunifier.storage.image_shards import ImageStore, write_images

SIZE = 32


def flat_images(values) -> np.ndarray:
    return np.array(values, np.uint8)[:, None, None].repeat(SIZE, 1).repeat(SIZE, 2)


@pytest.fixture
def store(tmp_path) -> ImageStore:
    """Flat images whose grey values are 10, 20, 30 ..."""
    write_images(tmp_path, [f"i{n}" for n in range(5)], flat_images(range(10, 60, 10)), SIZE)
    return ImageStore(tmp_path)


def model_of(size: int):
    """Return a model whose image is the first top code in grey values, everywhere."""

    def decode_codes(top, bottom):
        return (top[:, :1, None, None] / 255).float().expand(-1, 3, size, size)

    return SimpleNamespace(model=SimpleNamespace(decode_codes=decode_codes), device=torch.device("cpu"))


CODED = pl.DataFrame(
    {"image_id": ["i4", "i0"], "top": np.array([[52] * 4, [15] * 4]), "bottom": np.zeros((2, 4), int)}
)


def test_scores_are_those_of_known_errors(store):
    mean = np.full((SIZE, SIZE), 30 / 255)
    scores, images = reconstruct(model_of(SIZE), store, CODED, mean)
    assert SCORES.violations(scores) == [] and scores["image_id"].to_list() == ["i4", "i0"]
    assert images[:, 0, 0].tolist() == [52, 15]
    errors = [2, 5]
    assert scores["psnr"].to_list() == pytest.approx([20 * np.log10(255 / e) for e in errors], abs=1e-4)
    assert scores["psnr_mean_image"].to_list() == pytest.approx([20 * np.log10(255 / 20)] * 2, abs=1e-4)
    metrics = reconstruction_metrics(scores, BootstrapOptions(100, 0))
    assert metrics["psnr_reconstruction"] == pytest.approx(scores["psnr"].mean())
    gain = np.mean([20 * np.log10(20 / e) for e in errors])
    assert metrics["psnr_gain"] == pytest.approx(gain, abs=1e-3) and metrics["psnr_gain_n"] == 2


def test_images_of_another_size_are_an_input_error(store):
    with pytest.raises(
        InputError, match=r"images are \(32, 32\), the model generates \(8, 8\); set images.size"
    ):
        reconstruct(model_of(8), store, CODED, np.zeros((SIZE, SIZE)))


def test_stored_images_can_be_read_again_and_in_any_order(store):
    images = StoredImages(store, pl.Series(["i3", "i1"]))
    for _ in range(2):
        assert np.concatenate(list(images))[:, 0, 0].tolist() == [40, 20]
    assert StoredImages(store).read()[:, 3, 3].tolist() == [10, 20, 30, 40, 50]
    assert images.thumbnails()[:, 7] == pytest.approx([40 / 255, 20 / 255])
    assert [len(batch) for batch in in_batches(flat_images([1] * 130))] == [64, 64, 2]
