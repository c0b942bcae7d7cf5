import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medunifier.runtime.errors import InputError
from medunifier.runtime.params import load_params
from medunifier.storage.image_shards import write_images
from medunifier.tracking import LocalRun
from medunifier.vision.feature_shards import FeatureStore, shard_rows
from medunifier.vision.frozen_encoder import load_vision
from medunifier.vision.preprocessing import whole_images
from stages import extract_features as stage
from stages.extract_features import extract_features
from tests.support.encoder_folders import save_unit_processor
from tests.support.paths import REPO

SIZE = 32


class Patches(torch.nn.Module):
    """Stands in for the frozen ViT: 16 x 16 patches through a random linear map, times `scale`."""

    checksum = "of the weights"
    preprocessing = whole_images((SIZE, SIZE), ((0.0,) * 3, (1.0,) * 3), "bicubic")

    def __init__(self, scale=lambda pixels: 1.0):
        super().__init__()
        torch.manual_seed(0)
        self.patches = torch.nn.Conv2d(3, 8, kernel_size=16, stride=16)
        self.scale = scale

    def record(self):
        return {"checksum": self.checksum, "preprocessing": self.preprocessing.record()}

    def forward(self, pixels):
        assert not torch.is_grad_enabled()
        return self.patches(pixels).flatten(2).transpose(1, 2) * self.scale(pixels)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Seven decoded images in a working directory of their own, and the stand-in model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "load_vision", lambda **_: Patches())
    images = np.random.default_rng(0).integers(0, 256, (7, SIZE, SIZE), dtype=np.uint8)
    write_images("data/images/phantom", [f"i{n}" for n in range(7)], images, SIZE)
    return images


def extract(shard, *, shards=(0, 1, 2), batch_size=2, folder="not read"):
    params = load_params(REPO / "workflow" / "presets" / "demo.yaml")
    features = params.features.replace(shards=shards, batch_size=batch_size)
    run = LocalRun(f"extract_features@phantom-{shard}", "metrics")
    vision = params.vision.replace(folder=folder, levels=(), size=None)
    extract_features(params.replace(features=features, vision=vision), run, "phantom", shard)


def test_the_shards_together_hold_the_tokens_of_every_image(images):
    for shard in ("0", "1", "2"):
        extract(shard)
    store = FeatureStore("data/features/phantom")
    assert store.image_ids == [f"i{n}" for n in range(7)]
    assert (store.n_tokens, store.width) == (4, 8)
    weight, bias = (value.detach().numpy() for value in Patches().patches.parameters())
    for image, tokens in zip(images, store.read(range(7)), strict=True):
        patch = image[16:, :16] / 255  # the third of four
        np.testing.assert_allclose(tokens[2], (weight * patch).sum((1, 2, 3)) + bias, atol=2e-3)
    assert store.manifests["1"]["checksum"] == "of the weights"
    assert json.loads(Path("metrics/extract_features@phantom-1.json").read_text()) == {"images": 2}


def test_the_same_input_gives_the_same_bytes(images):
    contents = []
    for _ in range(2):
        extract("1")
        contents.append({path.name: path.read_bytes() for path in Path("data/features/phantom/1").iterdir()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("total", "shards"), [(7, 3), (2, 2), (100, 7), (5, 1)])
def test_shards_are_contiguous_and_even(total, shards):
    names = [str(number) for number in range(shards)]
    parts = [shard_rows(total, names, name) for name in names]
    assert [row for part in parts for row in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_unknown_and_empty_shards_are_refused(images):
    with pytest.raises(InputError, match=r"no shard '5' in features\.shards of params\.yaml; it has 0, 1, 2"):
        extract("5")
    with pytest.raises(InputError, match="3 shards for 2 images; name fewer shards"):
        shard_rows(2, ["0", "1", "2"], "0")


@pytest.mark.parametrize("factor", [1e9, float("nan"), float("-inf")])
def test_tokens_beyond_half_precision_name_the_image(images, monkeypatch, factor):
    def scale(pixels):
        fourth = torch.from_numpy(images[3]) / 255
        is_fourth = (pixels[:, 0] - fourth).abs().amax((1, 2)) < 1e-6
        return torch.where(is_fourth, factor, 1.0)[:, None, None]

    monkeypatch.setattr(stage, "load_vision", lambda **_: Patches(scale))
    with pytest.raises(InputError, match="image i3: the frozen model gives tokens that are NaN or beyond"):
        extract("0", shards=(0,))
    assert not Path("data/features/phantom/0/manifest.json").exists()


def test_another_model_file_leaves_another_checksum(tmp_path, monkeypatch):
    """DVC notices the changed file (test_pipeline) and runs the stage; the manifest then names other weights."""
    from transformers import ViTConfig, ViTModel

    monkeypatch.chdir(tmp_path)
    write_images(
        "data/images/phantom", ["a"], np.random.default_rng(0).integers(0, 256, (1, 224, 224), np.uint8), 224
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vit = ViTModel(ViTConfig(patch_size=14, **sizes), add_pooling_layer=False)
    found = []
    for _ in range(2):
        vit.save_pretrained("vit")
        save_unit_processor("vit")
        extract("0", shards=(0,), folder="vit")
        store = FeatureStore("data/features/phantom")
        assert store.manifests["0"]["checksum"] == load_vision("vit").checksum
        found.append((store.manifests["0"]["checksum"], store.read([0])))
        with torch.no_grad():
            vit.layernorm.bias += 1
    (one, tokens), (other, moved) = found
    assert one != other
    np.testing.assert_allclose(moved, tokens + 1, atol=1e-2)
