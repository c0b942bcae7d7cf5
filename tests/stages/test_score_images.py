"""The stage score_images: known errors give known metrics; the real model's images are those of its codes."""

import dataclasses
import json
import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image

from medunifier.evaluation.loading import load_trained
from medunifier.image_scoring import classifier_quality, finding_classifier
from medunifier.image_scoring import prompt_fidelity as fidelity
from medunifier.image_scoring.similarity import frechet_distance, thumbnails
from medunifier.runtime.errors import InputError
from medunifier.synthesis import scoring_inputs
from medunifier.synthesis.codes import write_codes
from medunifier.synthesis.generated_sets import GENERATED, write_generated_set
from medunifier.tracking import LocalRun
from stages import score_images as stage
from stages.score_images import score_images
from tests.support.encoder_folders import save_unit_processor
from tests.support.trained_project import DATASET, SPLITS, VARIANT, WIDTH, image_of, make_project, report_of

VIT_WIDTH = WIDTH  # what the model reads
N_GENERATED = {"unconditional": 6, "reports": 5, "prompts": 4, "strips": 2}


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
    for name, size in N_GENERATED.items():
        write_set(name, size)
    config = ViTConfig(
        hidden_size=VIT_WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, patch_size=56
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained("vit")
    save_unit_processor("vit")
    return params.replace(vision=params.vision.replace(folder="vit", levels=(), size=None))


def write_set(name: str, size: int) -> None:
    """Write a set as generate_images does: the test images from 17 on, a little darker."""
    source = [f"i{17 + i}" for i in range(size)] if name == "reports" else [None] * size
    prompts = {"unconditional": [None] * size, "reports": [report_of(17 + i) for i in range(size)]}
    prompts["strips"] = ["left edema", "right edema"]
    table = pl.DataFrame(
        {
            "image_id": [f"{name}-{i}" for i in range(size)],
            "prompt": prompts.get(name, ["edema", "edema", "cardiomegaly", "cardiomegaly"]),
            "seed": range(size),
            "source_id": source,
            "row": [i // 2 for i in range(size)],
            "top": np.zeros((size, 64), np.uint16),
            "bottom": np.zeros((size, 256), np.uint16),
        },
        schema=dict(GENERATED.columns),
    )
    images = (image_of(17 + i) - np.uint8(3) for i in range(size))
    write_generated_set(f"data/generated/{VARIANT}/{name}", table, images, 224)


def run_score_images(params) -> dict[str, float]:
    run = LocalRun(f"score_images@{VARIANT}", "results/metrics")
    score_images(params, run, VARIANT)
    return json.loads(run.metrics_path.read_text())


@pytest.fixture
def off_by_a_tenth(monkeypatch):
    """A model whose images are the real ones, brighter by 0.1."""
    import torch

    class Model:
        def __init__(self, model):
            self.config, self.encode_image, self.encode_text = (
                model.config,
                model.encode_image,
                model.encode_text,
            )

        def decode_codes(self, top, bottom):
            real = np.stack([image_of(int(number)) for number in top[:, 0]]) / 255
            return torch.from_numpy(real + 0.1).float()[:, None].repeat(1, 3, 1, 1)

    def load(variant):
        trained = load_trained(variant)
        return dataclasses.replace(trained, model=Model(trained.model))

    monkeypatch.setattr(scoring_inputs, "load_trained", load)


def test_table_5_reconstructs_training_images_where_it_is_told_to(params, off_by_a_tenth):
    """The reconstructions are real images, brighter by 0.1: which ones can be read off their values."""
    of_test = np.stack([image_of(number) for number in range(16, 24)])
    for split, numbers in (("train", range(12)), ("test", range(16, 24))):
        changed = params.replace(score_images=params.score_images.replace(reconstructed=split))
        inputs = scoring_inputs.read_scoring_inputs(changed, VARIANT)
        found = inputs.reconstructions(4, of_test)
        assert found.shape == (4, 224, 224)
        shift = 25.5 if split == "train" else 0
        distance = [
            min(np.abs(image - (image_of(n).astype(float) + shift)).mean() for n in numbers)
            for image in found
        ]
        assert max(distance) <= 0.51, split  # as near as rounding allows
    metrics = {}
    for split in ("train", "test"):
        changed = params.replace(score_images=params.score_images.replace(reconstructed=split))
        metrics[split] = run_score_images(changed)
    assert metrics["train"]["fd_vit_reconstruction"] != metrics["test"]["fd_vit_reconstruction"]
    same = ("psnr_reconstruction", "ssim_reconstruction", "fd_vit_validation", "fd_vit_synthetic")
    assert all(metrics["train"][name] == metrics["test"][name] for name in same)


def test_a_known_error_gives_known_metrics(params, off_by_a_tenth, capsys):
    metrics = run_score_images(params)
    assert metrics["psnr_reconstruction"] == pytest.approx(20, abs=1e-3)
    assert metrics["psnr_reconstruction_ci_low"] == pytest.approx(20, abs=1e-3)
    assert metrics["psnr_reconstruction_n"] == SPLITS["test"]
    train = np.stack([image_of(n) for n in range(SPLITS["train"])]) / 255
    test = np.stack([image_of(n) for n in range(16, 24)]) / 255
    errors = [((image - train.mean(0)) ** 2).mean() for image in test]
    assert metrics["psnr_mean_image"] == pytest.approx(np.mean([-10 * np.log10(error) for error in errors]))
    assert metrics["psnr_gain"] == pytest.approx(metrics["psnr_reconstruction"] - metrics["psnr_mean_image"])
    assert 0.5 < metrics["ssim_reconstruction"] < 1

    scores = pl.read_parquet(f"results/images/{VARIANT}/scores.parquet")
    assert scores["image_id"].to_list() == [f"i{n}" for n in range(16, 24)]
    assert scores["ssim"].mean() == pytest.approx(metrics["ssim_reconstruction"])
    grid = np.array(Image.open(f"results/images/{VARIANT}/reconstructions.png"))
    assert grid.shape == (2 * 224, 8 * 224)
    assert (grid[:224, :224] == image_of(16)).all()
    assert np.abs(grid[224:, :224].astype(int) - image_of(16) - 25.5).max() <= 1
    assert not any(name.startswith("fid") for name in metrics)
    assert "no FID: score_images.inception_weights names no file" in capsys.readouterr().out


def test_frechet_distances_are_those_of_the_frozen_vits_features(params, off_by_a_tenth):
    import torch
    from transformers import ViTModel

    metrics = run_score_images(params)
    vit = ViTModel.from_pretrained("vit", add_pooling_layer=False).eval()

    def features(numbers, shift=0.0):
        images = np.stack([np.round(image_of(n) + shift * 255) / 255 for n in numbers])
        pixels = torch.from_numpy(images).float()[:, None].repeat(1, 3, 1, 1)
        with torch.no_grad():
            return vit(pixel_values=pixels).last_hidden_state[:, 1:].mean(1).numpy()

    reference = features(range(12))
    assert metrics["fd_vit_validation"] == pytest.approx(
        frechet_distance(features(range(12, 16)), reference), rel=1e-3
    )
    assert metrics["fd_vit_validation_n"] == metrics["fd_vit_reconstruction_n"] == SPLITS["validate"]
    assert metrics["fd_vit_reference_n"] == SPLITS["train"]
    synthetic = features(range(17, 21), -3 / 255)
    assert metrics["fd_vit_synthetic"] == pytest.approx(frechet_distance(synthetic, reference), rel=1e-3)
    assert metrics["fd_vit_synthetic_n"] == metrics["fd_vit_reports_n"] == SPLITS["validate"]
    assert {"kd_vit_synthetic", "precision_vit_reports", "recall_vit_reconstruction"} <= set(metrics)

    everything = params.score_images.replace(max_images=4)
    metrics = run_score_images(params.replace(score_images=everything))
    scored = pl.read_parquet(f"results/images/{VARIANT}/scores.parquet")["image_id"]
    chosen = [int(image_id[1:]) for image_id in scored]
    assert len(chosen) == metrics["psnr_gain_n"] == metrics["fd_vit_reference_n"] == 4
    assert metrics["fd_vit_reconstruction"] > 0
    assert set(chosen) <= set(range(16, 24))


@pytest.mark.slow
def test_the_real_model_decodes_its_codes(params):
    import torch

    metrics = run_score_images(params)
    assert run_score_images(params) == metrics
    trained = load_trained(VARIANT)
    number = 20
    top, bottom = torch.full((1, 64), number), ((number + torch.arange(256)) % 32)[None]
    with torch.no_grad():
        decoded = trained.model.decode_codes(top, bottom)[0, 0].numpy()
    expected = -10 * np.log10(((decoded - image_of(number) / 255) ** 2).mean())
    scores = pl.read_parquet(f"results/images/{VARIANT}/scores.parquet")
    assert scores.filter(image_id=f"i{number}")["psnr"].item() == pytest.approx(expected, abs=1e-3)


def test_fid_where_the_weights_are_given(params, off_by_a_tenth, monkeypatch):
    """Inception itself is tested in unit/image_scoring/test_similarity.py; here: its input, and the names."""
    inputs = []

    def inception(images, weights, device):
        batch = np.concatenate(list(images))
        inputs.append((batch.shape, batch.dtype, weights))
        return batch[:, ::56, 0].astype(np.float32)

    monkeypatch.setattr(stage, "inception_features", inception)
    given = params.score_images.replace(inception_weights="weights.pth")
    metrics = run_score_images(params.replace(score_images=given))
    assert {"fid_reconstruction", "fid_validation", "fid_reference_n", "fid_reconstruction_n"} <= set(metrics)
    assert {"fid_synthetic", "fid_reports", "kid_synthetic", "precision_inception_reports"} <= set(metrics)
    assert inputs == [((n, 224, 224), np.uint8, "weights.pth") for n in (12, 4, 4, 4, 4)]


def test_missing_weights_codes_or_images_are_input_errors(params, off_by_a_tenth):
    given = params.score_images.replace(inception_weights="nowhere.pth")
    with pytest.raises(InputError, match=r"nowhere.pth does not hold torch-fidelity's Inception weights"):
        run_score_images(params.replace(score_images=given))
    path = f"data/prepared/{DATASET}/test.parquet"
    table = pl.read_parquet(path)
    table[1:].write_parquet(path)
    with pytest.raises(
        InputError, match=r"1 images are not in data/prepared/phantom; run encode_codes@full again"
    ):
        run_score_images(params)
    table.write_parquet(path)
    write_codes(
        f"data/codes/{VARIANT}/validate.parquet", ["i12"], np.zeros((1, 64), int), np.zeros((1, 256), int)
    )
    with pytest.raises(InputError, match=r"validate.parquet: 1 images, at least 2 are needed"):
        run_score_images(params)


def test_generated_images_are_scored(params, off_by_a_tenth):
    metrics = run_score_images(params)
    assert (
        metrics["prompts_drawn"] == 4 and metrics["prompts_judged"] == 0
    )  # 12 training images are too few for any finding
    assert metrics["prompt_retrieval_recall_at_1_chance"] == 50
    assert metrics["report_retrieval_recall_at_1_n"] == 5
    assert 0.9 < metrics["ms_ssim_prompt"] <= 1 and metrics["ms_ssim_prompt_n"] == 2
    nearest = pl.read_parquet(f"results/images/{VARIANT}/nearest.parquet")
    assert nearest["set"].unique(maintain_order=True).to_list() == [
        "validation",
        "reconstruction",
        *N_GENERATED,
    ]
    generated = nearest.filter(set="unconditional")
    assert generated["nearest_id"].to_list() == ["i11"] * 6  # the brightest
    expected = [image_of(17 + i) - image_of(11) - 3 for i in range(6)]
    assert generated["distance"].to_list() == pytest.approx([float(d.mean()) for d in expected], abs=0.2)

    figure = np.array(Image.open(f"results/images/{VARIANT}/figure_3.png"))
    assert figure.shape == (4 * 224, 5 * 224)
    for line, shift in enumerate((0, 25.5, -3, -3)):  # real, reconstructed, from reports, without a text
        found = figure[line * 224 : (line + 1) * 224, 224:448].astype(float)
        assert np.abs(found - image_of(18) - shift).max() <= 1


def test_the_classifier_is_trained_on_training_images_and_applied_to_those_of_the_prompts(
    params, off_by_a_tenth, monkeypatch
):
    """The functions themselves are tested in unit/image_scoring; here: their inputs."""
    given = {}

    def spy(module, name):
        original = getattr(module, name)

        def call(*arguments):
            given[name] = arguments
            return original(*arguments)

        monkeypatch.setattr(module, name, call)

    monkeypatch.setattr(finding_classifier, "MIN_IMAGES_PER_CLASS", 2)
    spy(stage, "train_finding_classifier")
    spy(classifier_quality, "classifier_quality")
    spy(fidelity, "prompt_fidelity")
    spy(fidelity, "report_fidelity")
    metrics = run_score_images(params)

    def small(numbers, shift=0):
        return thumbnails(np.stack([image_of(n) - np.uint8(shift) for n in numbers]))

    train, images = given["train_finding_classifier"]
    assert train["image_id"].to_list() == [f"i{n:02}" for n in range(12)]
    assert (images == small(range(12))).all()
    _, test, images, *_ = given["classifier_quality"]
    assert test["image_id"].to_list() == [f"i{n}" for n in range(16, 24)]
    assert (images == small(range(16, 24))).all()
    _, prompted, generated, unconditional, _ = given["prompt_fidelity"]
    assert prompted.rows.tolist() == [0, 1, 2, 3] and (generated == small(range(17, 21), 3)).all()
    assert (unconditional == small(range(17, 23), 3)).all()
    _, sources, generated, _ = given["report_fidelity"]
    assert sources["report"].to_list() == [report_of(n) for n in range(17, 22)]
    assert (generated == small(range(17, 22), 3)).all()
    assert metrics["prompts_judged"] == metrics["prompt_fidelity_n"] == 4 and metrics["judge_accuracy_n"] == 8
    assert metrics["judge_auroc_n"] == 8 and metrics["report_fidelity_auroc_n"] == 5


def test_priors_without_text_leave_the_unconditional_set_alone(params, off_by_a_tenth):
    for name in ("reports", "prompts", "strips"):
        shutil.rmtree(f"data/generated/{VARIANT}/{name}")
    metrics = run_score_images(params)
    assert "fd_vit_synthetic" in metrics
    assert not any(name.startswith(("prompt", "judge", "report", "fd_vit_reports")) for name in metrics)
    assert np.array(Image.open(f"results/images/{VARIANT}/figure_3.png")).shape == (3 * 224, 6 * 224)
    shutil.rmtree(f"data/generated/{VARIANT}")
    with pytest.raises(InputError, match=r"unconditional/pictures.parquet: no such table"):
        run_score_images(params)
