"""Features computed on the fly equal the stored ones, and every stage takes either kind."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, ViTConfig, ViTModel

from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from medunifier.huggingface.new_model import build_model
from medunifier.huggingface.processing_medunifier import MedUnifierProcessor
from medunifier.pretraining.pairs import Pairs
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Augment
from medunifier.storage.image_shards import ImageStore, write_images
from medunifier.tracking import LocalRun
from medunifier.vision.feature_shards import FeatureStore
from medunifier.vision.image_features import OnlineFeatures, open_features
from stages import pretrain, train_tokenizer
from stages.encode_codes import encode_codes
from stages.extract_features import extract_features
from tests.stages.test_pretrain import tiny
from tests.support.encoder_folders import save_unit_processor
from tests.support.trained_project import DATASET, make_project

VIT = "encoders/vit"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a ViT of its own, whose features are still to be extracted."""
    monkeypatch.chdir(tmp_path)
    params = tiny(make_project(tmp_path))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(patch_size=14, **sizes), add_pooling_layer=False).save_pretrained(VIT)
    save_unit_processor(VIT)
    params = params.replace(vision=params.vision.replace(folder=VIT, levels=(), size=None))
    train_tokenizer.train_tokenizer(params, LocalRun("train_tokenizer", "results/metrics"))
    return params


def extract(params, mode):
    for shard in ("0", "1"):
        features = params.features.replace(mode=mode, shards=(0, 1))
        run = LocalRun(f"extract_features@{DATASET}-{shard}", "results/metrics")
        extract_features(params.replace(features=features), run, DATASET, shard)


def train(params, name, **changes):
    """The metrics of six steps of pre-training, from scratch."""
    p = params.replace(pretrain=params.pretrain.replace(**changes))
    run = LocalRun("pretrain@full", "results/metrics", name)
    pretrain.pretrain(p, run, "full")
    return run.final


def test_tokens_equal_the_stored_ones(project):
    extract(project, "cached")
    stored = open_features(DATASET)
    assert isinstance(stored, FeatureStore)
    rows = np.array([23, 0, 7, 7])
    expected = stored.read(rows)
    extract(project, "online")
    assert not list(Path(f"data/features/{DATASET}").rglob("tokens.npy"))
    online = open_features(DATASET)
    assert isinstance(online, OnlineFeatures)
    assert online.image_ids == stored.image_ids and (online.n_tokens, online.width) == (257, 16)
    np.testing.assert_array_equal(online.rows(["i07", "i00"]), stored.rows(["i07", "i00"]))
    found = online.read(rows)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=2e-3, rtol=2e-3)  # the last place of half precision
    assert online.manifests["0"]["checksum"] == stored.manifests["0"]["checksum"]
    for kind in ("cached", "online"):  # one after the other in the same folder
        extract(project, kind)
        assert open_features(DATASET).manifests["1"]["mode"] == kind


@pytest.mark.slow
def test_training_is_the_same_online_as_from_disk(project):
    extract(project, "cached")
    from_disk = train(project, "cached")
    extract(project, "online")
    online = train(project, "online")
    assert online.keys() == from_disk.keys()
    for name in (n for n in from_disk if n.startswith("val_")):
        assert online[name] == pytest.approx(from_disk[name], rel=5e-3), name
    codes = []
    for mode in ("online", "cached"):  # and so does a stage that uses the model
        extract(project, mode)
        encode_codes(project, LocalRun("encode_codes@full", "results/metrics"), "full")
        codes.append(
            pl.concat(pl.read_parquet(path) for path in sorted(Path("data/codes/full").glob("*.parquet")))
        )
    assert codes[0]["image_id"].to_list() == codes[1]["image_id"].to_list()
    top, bottom = (
        np.mean(codes[0][level].to_numpy() == codes[1][level].to_numpy()) for level in ("top", "bottom")
    )
    assert min(top, bottom) > 0.98  # near ties may fall the other way


def training_pairs(params):
    """The training split and a new model."""
    tokenizer = AutoTokenizer.from_pretrained("models/tokenizer")
    pairs = Pairs(params, tokenizer, "train")
    return pairs, build_model(params, tokenizer, pairs.features, print)


def test_the_trainings_precision_does_not_change_its_inputs(project):
    """Online features of a training in bf16 are those of the stored ones, augmented images those of any training."""
    extract(project, "online")
    augmented = project.pretrain.replace(
        augment=Augment(rotation=10.0, shift=0.1, zoom=0.1, brightness=0.2, contrast=0.2)
    )
    for params in (project, project.replace(pretrain=augmented)):
        pairs, model = training_pairs(params)
        batch = pairs.load(np.arange(4))
        full = pairs.model_inputs(model, batch, torch.Generator().manual_seed(1))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = pairs.model_inputs(model, batch, torch.Generator().manual_seed(1))
        assert full.keys() == half.keys() and all(torch.equal(full[name], half[name]) for name in full)
        if params is project:
            stored = torch.from_numpy(pairs.features.read(pairs.feature_rows[:4])).float()
            torch.testing.assert_close(half["features"].float(), stored, atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_augmentation_changes_the_encoders_input_and_the_target_alike(project):
    extract(project, "online")
    strong = Augment(rotation=10.0, shift=0.1, zoom=0.1, brightness=0.2, contrast=0.2)
    params = project.replace(pretrain=project.pretrain.replace(augment=strong))
    pairs, model = training_pairs(params)
    batch = pairs.load(np.arange(4))
    assert "features" not in batch and batch["pixels"].dtype == torch.uint8
    plain = pairs.model_inputs(model, batch)
    augmented_twice = [pairs.model_inputs(model, batch, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(
        augmented_twice[0]["features"], augmented_twice[1]["features"]
    )  # the generator decides: resume is exact
    assert not torch.allclose(augmented_twice[0]["features"], plain["features"], atol=1e-2)
    again = model.extract_features(augmented_twice[0]["images"].expand(-1, 3, -1, -1))
    torch.testing.assert_close(again, augmented_twice[0]["features"].float())
    torch.testing.assert_close(
        plain["images"][:, 0] * 255,
        torch.from_numpy(ImageStore(f"data/images/{DATASET}").read(np.arange(4))).float(),
    )
    losses = train(project, "augmented", augment=strong)
    assert all(np.isfinite(value) for value in losses.values())
    assert losses["val_tig_last"] != train(project, "plain")["val_tig_last"]


def test_a_vit_that_changed_meanwhile_is_refused(project):
    extract(project, "online")
    vit = ViTModel.from_pretrained(VIT, add_pooling_layer=False)
    with torch.no_grad():
        vit.layernorm.bias += 1
    vit.save_pretrained(VIT)
    with pytest.raises(InputError, match=f"{VIT}: other weights .* run extract_features again"):
        open_features(DATASET).read([0])


class TooBright(torch.nn.Module):
    """Tokens beyond half precision where the image's mean is above 90 of 255."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, pixels):
        high = pixels.mean((1, 2, 3)) > 90 / 255
        return torch.where(high, 1e6, 1.0)[:, None, None].expand(-1, 257, 16)


def test_an_image_whose_features_half_precision_cannot_hold_is_named(project):
    extract(project, "online")
    features = open_features(DATASET)
    features._encoder = TooBright()
    means = ImageStore(f"data/images/{DATASET}").read(range(24)).mean((1, 2))
    bright, dark = int(means.argmax()), int(means.argmin())
    assert means[dark] < 90 < means[bright]
    assert (features.read([dark]) == 1).all()
    with pytest.raises(
        InputError, match=f"image i{bright:02}: the frozen model gives tokens that are NaN or beyond"
    ):
        features.read([dark, bright])

    pairs, model = training_pairs(project)  # and training, which computes them within the step, names it too
    model.use_encoder(TooBright())
    means = pairs.images.read(pairs.image_rows).mean((1, 2))
    rows = np.array([means.argmin(), means.argmax()])
    name = pairs.image_ids[rows[1]]
    assert (pairs.model_inputs(model, pairs.load(rows[:1]))["features"] == 1).all()
    with pytest.raises(
        InputError, match=f"image {name}: the frozen model gives tokens that are NaN or beyond"
    ):
        pairs.model_inputs(model, pairs.load(rows))


def test_shards_of_both_kinds_are_refused(project):
    extract(project, "cached")
    path = Path(f"data/features/{DATASET}/1/manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mode": "online"}))
    with pytest.raises(InputError, match="shards differ in mode"):
        open_features(DATASET)


@pytest.mark.slow
def test_images_of_another_size_than_the_objective_s_and_the_encoder_s(project):
    """Stored at 280, read by the encoder at 140, generated at 224: cached and online, with and without a change."""
    ids = [f"i{n:02}" for n in range(24)]
    stored = np.random.default_rng(0).integers(0, 256, (24, 280, 280)).astype(np.uint8)
    write_images(f"data/images/{DATASET}", ids, stored, 280)
    params = project.replace(images=project.images.replace(size=280), vision=project.vision.replace(size=140))
    for mode in ("cached", "online"):
        extract(params, mode)
        features = open_features(DATASET)
        assert (features.n_tokens, next(iter(features.manifests.values()))["grid"]) == (101, [10, 10])
        read = np.stack(
            [Image.fromarray(image).resize((140, 140), Image.Resampling.BICUBIC) for image in stored[:4]]
        )
        own = ViTModel.from_pretrained(VIT, add_pooling_layer=False).eval()
        with torch.no_grad():
            pixels = torch.from_numpy(read)[:, None].expand(-1, 3, -1, -1) / 255
            expected = own(pixels, interpolate_pos_encoding=True).last_hidden_state
        np.testing.assert_allclose(features.read(range(4)), expected, atol=5e-3, rtol=2e-3)
        pairs, model = training_pairs(params)
        batch = pairs.model_inputs(model, pairs.load(np.arange(4)))
        target = [Image.fromarray(image).resize((224, 224), Image.Resampling.LANCZOS) for image in stored[:4]]
        np.testing.assert_allclose(batch["images"][:, 0] * 255, np.stack(target), atol=1e-3)
        assert model.config.vision_grid == [10, 10] and model.config.vision["size"] == 140
        metrics = train(params, f"size_{mode}")
        assert all(np.isfinite(value) for value in metrics.values())
    trained = MedUnifierModel.from_pretrained("models/full")
    processor = MedUnifierProcessor.from_pretrained("models/full")
    Image.fromarray(stored[0]).save("a.png")
    pixels = processor(images="a.png")["pixel_values"]
    assert pixels.shape == (1, 3, 280, 280)  # as stored; the model prepares them as its encoder wants
    np.testing.assert_allclose(
        trained.extract_features(pixels)[0], features.read([0])[0], atol=5e-3, rtol=2e-3
    )
