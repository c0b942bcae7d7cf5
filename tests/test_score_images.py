"""The stage score_images: known errors give known figures; the real model's pictures are those of its codes."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

from stages import score_images as stage
from stages.errors import InputError
from stages.inference import load_trained
from stages.metrics.image import frechet_distance
from stages.score_images import score_images, write_grid
from stages.storage.codes import write_codes
from stages.tracking import LocalRun
from tests.trained_project import DATASET, SPLITS, VARIANT, make_project, picture_of

VIT_WIDTH = 6


@pytest.fixture
def params(tmp_path, monkeypatch):
    """The project after encode_codes, with codes that hold the image's number, and a small ViT."""
    from transformers import ViTConfig, ViTModel

    monkeypatch.chdir(tmp_path)
    params = make_project(tmp_path)
    start = 0
    for split, size in SPLITS.items():
        numbers = np.arange(start, start + size)
        ids = [f"i{n:02}" for n in numbers]
        codes = numbers[:, None].repeat(64, 1), (numbers[:, None] + np.arange(256)) % 32
        write_codes(f"data/codes/{VARIANT}/{split}.parquet", ids, *codes)
        start += size
    config = ViTConfig(
        hidden_size=VIT_WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, patch_size=56
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained("vit")
    return dataclasses.replace(params, vision=dataclasses.replace(params.vision, model="vit"))


def run_score_images(params) -> dict[str, float]:
    run = LocalRun(f"score_images@{VARIANT}", "results/metrics")
    score_images(params, run, VARIANT)
    return json.loads(run.metrics_path.read_text())


@pytest.fixture
def off_by_a_tenth(monkeypatch):
    """A model whose pictures are the real ones, brighter by 0.1."""
    import torch

    class Model:
        @staticmethod
        def decode_codes(top, bottom):
            real = np.stack([picture_of(int(number)) for number in top[:, 0]]) / 255
            return torch.from_numpy(real + 0.1).float()[:, None].repeat(1, 3, 1, 1)

    monkeypatch.setattr(
        stage, "load_trained", lambda variant: dataclasses.replace(load_trained(variant), model=Model())
    )


def test_a_known_error_gives_known_figures(params, off_by_a_tenth, capsys):
    metrics = run_score_images(params)
    assert metrics["psnr_reconstruction"] == pytest.approx(20, abs=1e-3)
    assert metrics["psnr_reconstruction_ci_low"] == pytest.approx(20, abs=1e-3)
    assert metrics["psnr_reconstruction_n"] == SPLITS["test"]
    train = np.stack([picture_of(n) for n in range(SPLITS["train"])]) / 255
    test = np.stack([picture_of(n) for n in range(16, 24)]) / 255
    errors = [((picture - train.mean(0)) ** 2).mean() for picture in test]
    assert metrics["psnr_mean_image"] == pytest.approx(np.mean([-10 * np.log10(error) for error in errors]))
    assert metrics["psnr_gain"] == pytest.approx(metrics["psnr_reconstruction"] - metrics["psnr_mean_image"])
    assert 0.5 < metrics["ssim_reconstruction"] < 1

    scores = pl.read_parquet(f"results/images/{VARIANT}/scores.parquet")
    assert scores["image_id"].to_list() == [f"i{n}" for n in range(16, 24)]
    assert scores["ssim"].mean() == pytest.approx(metrics["ssim_reconstruction"])
    grid = np.array(Image.open(f"results/images/{VARIANT}/reconstructions.png"))
    assert grid.shape == (2 * 224, 8 * 224)
    assert (grid[:224, :224] == picture_of(16)).all()
    assert np.abs(grid[224:, :224].astype(int) - picture_of(16) - 25.5).max() <= 1
    assert not any(name.startswith("fid") for name in metrics)
    assert "no FID: score_images.inception_weights names no file" in capsys.readouterr().out


def test_frechet_distances_are_those_of_the_frozen_vits_features(params, off_by_a_tenth):
    import torch
    from transformers import ViTModel

    metrics = run_score_images(params)
    vit = ViTModel.from_pretrained("vit", add_pooling_layer=False).eval()

    def features(numbers, shift=0.0):
        pictures = np.stack([np.round(picture_of(n) + shift * 255) / 255 for n in numbers])
        pixels = torch.from_numpy(pictures).float()[:, None].repeat(1, 3, 1, 1)
        with torch.no_grad():
            return vit(pixel_values=pixels).last_hidden_state[:, 1:].mean(1).numpy()

    reference = features(range(12))
    assert metrics["fd_vit_validation"] == pytest.approx(
        frechet_distance(features(range(12, 16)), reference), rel=1e-3
    )
    assert metrics["fd_vit_validation_n"] == metrics["fd_vit_reconstruction_n"] == SPLITS["validate"]
    assert metrics["fd_vit_reference_n"] == SPLITS["train"]

    everything = dataclasses.replace(params.score_images, max_images=4)
    metrics = run_score_images(dataclasses.replace(params, score_images=everything))
    drawn = pl.read_parquet(f"results/images/{VARIANT}/scores.parquet")["image_id"]
    chosen = [int(image_id[1:]) for image_id in drawn]
    assert len(chosen) == metrics["psnr_gain_n"] == metrics["fd_vit_reference_n"] == 4
    assert metrics["fd_vit_reconstruction"] > 0
    assert set(chosen) <= set(range(16, 24))


def test_the_real_model_draws_what_its_codes_say(params):
    import torch

    metrics = run_score_images(params)
    assert run_score_images(params) == metrics
    trained = load_trained(VARIANT)
    number = 20
    top, bottom = torch.full((1, 64), number), ((number + torch.arange(256)) % 32)[None]
    with torch.no_grad():
        drawn = trained.model.decode_codes(top, bottom)[0, 0].numpy()
    expected = -10 * np.log10(((drawn - picture_of(number) / 255) ** 2).mean())
    scores = pl.read_parquet(f"results/images/{VARIANT}/scores.parquet")
    assert scores.filter(image_id=f"i{number}")["psnr"].item() == pytest.approx(expected, abs=1e-3)


def test_fid_where_the_weights_are_given(params, off_by_a_tenth, monkeypatch):
    """Inception's part is tested in metrics/test_image.py; here: what it is given, and the names."""
    asked = []

    def inception(pictures, weights, device):
        batch = np.concatenate(list(pictures))
        asked.append((batch.shape, batch.dtype, weights))
        return batch[:, ::56, 0].astype(np.float32)

    monkeypatch.setattr(stage, "inception_features", inception)
    given = dataclasses.replace(params.score_images, inception_weights="weights.pth")
    metrics = run_score_images(dataclasses.replace(params, score_images=given))
    assert {"fid_reconstruction", "fid_validation", "fid_reference_n", "fid_reconstruction_n"} <= set(metrics)
    assert asked == [((n, 224, 224), np.uint8, "weights.pth") for n in (12, 4, 4)]


def test_missing_weights_codes_or_pictures_are_input_errors(params, off_by_a_tenth):
    given = dataclasses.replace(params.score_images, inception_weights="nowhere.pth")
    with pytest.raises(InputError, match="nowhere.pth does not hold torch-fidelity's Inception weights"):
        run_score_images(dataclasses.replace(params, score_images=given))
    path = f"data/prepared/{DATASET}/test.parquet"
    table = pl.read_parquet(path)
    table[1:].write_parquet(path)
    with pytest.raises(
        InputError, match=r"1 pictures are not in phantom's table; run encode_codes@full again"
    ):
        run_score_images(params)
    table.write_parquet(path)
    write_codes(
        f"data/codes/{VARIANT}/validate.parquet", ["i12"], np.zeros((1, 64), int), np.zeros((1, 256), int)
    )
    with pytest.raises(InputError, match="validate.parquet: 1 pictures, at least 2 are needed"):
        run_score_images(params)


def test_grid_pads_its_last_row(tmp_path):
    real, drawn = np.zeros((3, 4, 5), np.uint8), np.full((3, 4, 5), 9, np.uint8)
    write_grid(tmp_path / "grid.png", real, drawn, per_row=2)
    grid = np.array(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (16, 10)
    assert [grid[row, 0] for row in (0, 4, 8, 12)] == [0, 9, 0, 9]
    assert (grid[8:, 5:] == 255).all()
