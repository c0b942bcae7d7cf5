"""Small random encoders of torchvision, torchxrayvision and open_clip against their own library, as in test_encoder_libraries."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from medunifier.vision.frozen_encoder import load_vision
from tests.support.encoder_folders import deepest, pictures, pixels_of, radiographs, scramble

STORED = 96  # pixels of the stored images


def save_xrv(folder, architecture="densenet121"):
    """DenseNet121 in torchxrayvision's form: torchvision's names, one input channel, 18 outputs, thresholds."""
    import torchvision

    network = torchvision.models.densenet121(num_classes=18)
    network.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
    weights = {**network.state_dict(), "op_threshs": torch.rand(18)}
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"torchxrayvision": "densenet121-res224-all"}))
    return network.eval()


@pytest.mark.slow
def test_a_densenet_of_torchxrayvision(tmp_path):
    network = save_xrv(tmp_path)
    images = radiographs(224)
    # torchxrayvision's normalize(image, 255): -1024 to 1024, one channel
    x = torch.from_numpy((2 * (images.astype(np.float32) / 255) - 1.0) * 1024)[:, None]
    with torch.no_grad():
        grid = F.relu(network.features(x))
    encoder = load_vision(str(tmp_path))
    found = encoder(pixels_of(images))
    assert found.shape == (2, 50, 1024)
    torch.testing.assert_close(found, deepest(grid), rtol=1e-5, atol=1e-5 * grid.abs().max().item())
    two = load_vision(str(tmp_path), levels=(16, 32))
    assert (two.rows, two.columns, two.width) == (14, 14, 1024 + 1024)


@pytest.mark.slow
def test_a_resnet_of_torchvision(tmp_path):
    import torchvision

    network = torchvision.models.resnet18().eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"torchvision": "resnet18"}')
    images = radiographs(224)
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406])[:, None, None],
        torch.tensor([0.229, 0.224, 0.225])[:, None, None],
    )
    with torch.no_grad():
        x = (pixels_of(images) - mean) / std
        grid = torch.nn.Sequential(*list(network.children())[:-2])(x)
    torch.testing.assert_close(
        load_vision(str(tmp_path))(pixels_of(images)), deepest(grid), rtol=0, atol=1e-5
    )


def save_open_clip(folder, vision, text=None):
    """An open_clip model, saved as its own push to the hub does."""
    import open_clip

    config = {
        "embed_dim": 8,
        "vision_cfg": vision,
        "text_cfg": text or {"context_length": 16, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1},
    }
    kind = open_clip.CustomTextCLIP if text or "timm_model_name" in vision else open_clip.CLIP
    network = scramble(kind(**config))
    folder.mkdir(exist_ok=True)
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic"}
    settings = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return network


def open_clip_pixels(images, size):
    from open_clip.transform import image_transform

    transform = image_transform(
        size, False, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), interpolation="bicubic"
    )
    return torch.stack([transform(image) for image in pictures(images)])


def test_a_vit_of_open_clip(tmp_path):
    network = save_open_clip(tmp_path, {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16})
    images = radiographs(STORED)
    network.visual.output_tokens = True
    with torch.no_grad():
        pooled, patches = network.visual(open_clip_pixels(images, 64))
    found = load_vision(str(tmp_path))(pixels_of(images))
    scale = max(1.0, patches.abs().max().item())
    torch.testing.assert_close(found[:, 1:], patches, rtol=0, atol=1e-5 * scale)
    projected = found[:, 0] @ network.visual.proj
    torch.testing.assert_close(projected, pooled, rtol=0, atol=1e-4 * max(1.0, pooled.abs().max().item()))


def test_a_timm_model_within_open_clip_needs_no_text_tower(tmp_path):
    """BiomedCLIP's form: a ViT of timm, and a text tower of the hub that is not here."""
    vision = {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
    }
    vision |= {"image_size": 160}
    network = save_open_clip(tmp_path, vision)
    path = tmp_path / "open_clip_config.json"
    settings = json.loads(path.read_text())
    settings["model_cfg"]["text_cfg"] = {"hf_model_name": "microsoft/nothing-of-that-name"}
    path.write_text(json.dumps(settings))
    images = radiographs(200)
    with torch.no_grad():
        expected = network.visual.trunk.forward_features(open_clip_pixels(images, 160))
    found = load_vision(str(tmp_path))(pixels_of(images))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, expected.abs().max().item()))
