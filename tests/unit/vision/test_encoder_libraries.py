"""Small random encoders of each kind: saved by their own library, loaded by ours, compared with the library itself.

Images are larger than what the encoders read, so that size, interpolation, mean and deviation all count. The library's
own processor prepares the images for its own model; features must agree to 1e-5 in float32.
"""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import save_for_hf

from medunifier.vision.frozen_encoder import load_vision
from tests.support.encoder_folders import (
    SMALL,
    deepest,
    pictures,
    pixels_of,
    radiographs,
    scramble,
    with_first,
)

STORED = 96  # pixels of the stored images


def transformers_case(folder, network, processor, tokens):
    """Save model and processor; returns what they compute of pictures, as `tokens` arranges it."""
    from transformers import AutoImageProcessor

    scramble(network).save_pretrained(folder)
    processor.save_pretrained(folder)
    own = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return lambda images: tokens(network, own(images, return_tensors="pt")["pixel_values"])


def square(size):
    return {"height": size, "width": size}


def dinov2(folder):
    """RAD-DINO's kind: its own grey mean and deviation, the short side resized, the centre kept."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    config = Dinov2Config(**SMALL, image_size=70, patch_size=14)
    grey = {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3}
    processor = BitImageProcessor(size={"shortest_edge": 70}, crop_size=square(70), **grey)
    return transformers_case(folder, Dinov2Model(config), processor, lambda m, x: m(x).last_hidden_state)


def dinov2_registers(folder):
    from transformers import BitImageProcessor, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(**SMALL, image_size=70, patch_size=14, num_register_tokens=4)
    processor = BitImageProcessor(size={"shortest_edge": 70}, crop_size=square(70))

    def tokens(model, x):
        found = model(x).last_hidden_state  # class token, four registers, patches
        return with_first(found[:, 0], found[:, 5:])

    return transformers_case(folder, Dinov2WithRegistersModel(config), processor, tokens)


def siglip(folder):
    """No class token: the model's attention pooling stands first."""
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(**SMALL, image_size=64, patch_size=16)
    processor = SiglipImageProcessor(size=square(64))

    def tokens(model, x):
        found = model(x)
        return with_first(found.pooler_output, found.last_hidden_state)

    return transformers_case(folder, SiglipVisionModel(config), processor, tokens)


def siglip_without_pooling(folder):
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(**SMALL, image_size=64, patch_size=16, vision_use_head=False)

    def tokens(model, x):
        found = model(x).last_hidden_state
        return with_first(found.mean(1), found)

    return transformers_case(folder, SiglipVisionModel(config), SiglipImageProcessor(size=square(64)), tokens)


def siglip_both_towers(folder):
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    text = SMALL | {"vocab_size": 40, "max_position_embeddings": 8, "projection_size": 32}
    config = SiglipConfig(text_config=text, vision_config=SMALL | {"image_size": 64, "patch_size": 16})

    def tokens(model, x):
        found = model.vision_model(x)
        return with_first(found.pooler_output, found.last_hidden_state)

    return transformers_case(folder, SiglipModel(config), SiglipImageProcessor(size=square(64)), tokens)


def clip(folder):
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(**SMALL, image_size=64, patch_size=16)
    processor = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=square(64))
    return transformers_case(folder, CLIPVisionModel(config), processor, lambda m, x: m(x).last_hidden_state)


def blip_2(folder):
    from transformers import Blip2VisionConfig, Blip2VisionModel, BlipImageProcessor

    config = Blip2VisionConfig(**SMALL, image_size=56, patch_size=14, initializer_range=0.02)
    processor = BlipImageProcessor(size=square(56))
    return transformers_case(folder, Blip2VisionModel(config), processor, lambda m, x: m(x).last_hidden_state)


def convnext(folder):
    from transformers import ConvNextConfig, ConvNextImageProcessor, ConvNextModel

    config = ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])
    processor = ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=1.0)

    def tokens(model, x):
        found = model(x)
        return with_first(found.pooler_output, found.last_hidden_state.flatten(2).transpose(1, 2))

    return transformers_case(folder, ConvNextModel(config), processor, tokens)


def timm_case(folder, name, tokens, **arguments):
    """Save a model of timm; returns what it computes of pictures, whole images as timm's transforms prepare them."""
    network = scramble(timm.create_model(name, num_classes=0, **arguments))
    save_for_hf(network, folder, model_args=arguments)
    settings = timm.data.resolve_model_data_config(network) | {"crop_pct": 1.0}
    sides = getattr(getattr(network, "patch_embed", None), "img_size", None)
    if sides is not None:
        settings["input_size"] = (3, *sides)
    transform = timm.data.create_transform(**settings, is_training=False)
    return lambda images: tokens(network, torch.stack([transform(image) for image in images]))


def timm_vit(folder):
    """EVA-X and ViTs with a class token."""
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return timm_case(folder, "vit_tiny_patch16_224", lambda m, x: m.forward_features(x), **sizes)


def timm_registers(folder):
    sizes = {"img_size": 56, "embed_dim": 32, "depth": 2, "num_heads": 2}

    def tokens(model, x):
        found = model.forward_features(x)
        return with_first(found[:, 0], found[:, 5:])

    return timm_case(folder, "vit_small_patch14_reg4_dinov2", tokens, **sizes)


def timm_siglip(folder):
    sizes = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}

    def tokens(model, x):
        return with_first(model(x), model.forward_features(x))

    return timm_case(folder, "vit_base_patch16_siglip_224", tokens, **sizes)


def timm_without_class_token(folder):
    sizes = {
        "img_size": 64,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "class_token": False,
        "global_pool": "avg",
    }

    def tokens(model, x):
        found = model.forward_features(x)
        return with_first(found.mean(1), found)

    return timm_case(folder, "vit_tiny_patch16_224", tokens, **sizes)


def eva(folder):
    sizes = {"img_size": 56, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return timm_case(folder, "eva_giant_patch14_224", lambda m, x: m.forward_features(x), **sizes)


def eva02(folder):
    """The family of EVA-X: rotary positions."""
    sizes = {"img_size": 56, "embed_dim": 64, "depth": 2, "num_heads": 2}
    return timm_case(folder, "eva02_tiny_patch14_224", lambda m, x: m.forward_features(x), **sizes)


def efficientnet(folder):
    return timm_case(folder, "test_efficientnet", lambda m, x: deepest(m.forward_intermediates(x)[1][-1]))


def timm_convnext(folder):
    return timm_case(folder, "test_convnext", lambda m, x: deepest(m.forward_intermediates(x)[1][-1]))


CASES = [
    dinov2, dinov2_registers, siglip, siglip_without_pooling, siglip_both_towers, clip, blip_2, convnext,
    timm_vit, timm_registers, timm_siglip, timm_without_class_token, eva, eva02, efficientnet, timm_convnext,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_features_are_those_of_the_library_s_own_processor_and_model(case, tmp_path):
    torch.manual_seed(0)
    expected_of = case(str(tmp_path))
    images = radiographs(STORED)
    with torch.no_grad():
        expected = expected_of(pictures(images))
    encoder = load_vision(str(tmp_path))
    found = encoder(pixels_of(images))
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert expected.std() > 0.01 and (expected[0] - expected[1]).abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, expected.abs().max().item()))
    assert encoder.rows * encoder.columns == found.shape[1] - 1 and encoder.width == found.shape[2]
    # by another door: not normalised
    assert (load_vision(str(tmp_path), pixels="unit")(pixels_of(images)) - expected).abs().max() > 1e-3


def test_the_centre_is_cropped_on_request_as_the_processor_does(tmp_path):
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    processor = BitImageProcessor(size={"shortest_edge": 80}, crop_size=square(70))  # DINOv2: 256 and 224
    network = Dinov2Model(Dinov2Config(**SMALL, image_size=70, patch_size=14))
    expected_of = transformers_case(tmp_path, network, processor, lambda m, x: m(x).last_hidden_state)
    images = radiographs(STORED)
    with torch.no_grad():
        expected = expected_of(pictures(images))
    torch.testing.assert_close(
        load_vision(str(tmp_path), crop="model")(pixels_of(images)), expected, rtol=0, atol=1e-5
    )
    whole = load_vision(str(tmp_path))
    assert whole.preprocessing.resized == whole.preprocessing.size == (70, 70)
    assert (whole(pixels_of(images)) - expected).abs().max() > 0.01


def test_timm_s_crop_on_request(tmp_path):
    network = scramble(timm.create_model("test_vit", num_classes=0))
    save_for_hf(network, tmp_path)
    settings = timm.data.resolve_model_data_config(network)
    assert settings["crop_pct"] < 1
    images, transform = radiographs(200), timm.data.create_transform(**settings)
    with torch.no_grad():
        expected = network.forward_features(torch.stack([transform(image) for image in pictures(images)]))
    found = load_vision(str(tmp_path), crop="model")(pixels_of(images))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("kind", ["dinov2", "siglip", "timm"])
def test_another_size_resizes_the_position_embeddings_as_the_library_does(kind, tmp_path):
    images = radiographs(112)
    if kind == "timm":
        timm_vit(tmp_path)
        network = timm.create_model(
            f"local-dir:{tmp_path}", pretrained=True, num_classes=0, img_size=112
        ).eval()
        mean = std = torch.tensor([0.5] * 3)[:, None, None]
        with torch.no_grad():
            expected = network.forward_features((pixels_of(images) - mean) / std)
    else:
        {"dinov2": dinov2, "siglip": siglip}[kind](tmp_path)
        from transformers import AutoImageProcessor, AutoModel

        network = AutoModel.from_pretrained(tmp_path).eval()
        sides = {"size": square(112)} | ({"do_center_crop": False} if kind == "dinov2" else {})
        pixels = AutoImageProcessor.from_pretrained(tmp_path)(pictures(images), return_tensors="pt", **sides)
        options = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
        with torch.no_grad():
            found = network(**pixels, **options)
        expected = found.last_hidden_state
        if kind == "siglip":
            expected = with_first(found.pooler_output, expected)
    encoder = load_vision(str(tmp_path), size=112)
    torch.testing.assert_close(
        encoder(pixels_of(images)), expected, rtol=0, atol=1e-5 * max(1, expected.abs().max().item())
    )


def test_a_rectangular_grid(tmp_path):
    sizes = {"img_size": (64, 32), "embed_dim": 32, "depth": 1, "num_heads": 2}
    network = scramble(timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes))
    save_for_hf(network, tmp_path, model_args=sizes)
    encoder = load_vision(str(tmp_path))
    assert (encoder.rows, encoder.columns) == (4, 2) and encoder.record()["grid"] == [4, 2]
    images = radiographs(STORED)
    squashed = np.stack([np.asarray(p.convert("L").resize((32, 64), 3)) for p in pictures(images)])
    with torch.no_grad():
        expected = network.forward_features((pixels_of(squashed) - 0.5) / 0.5)
    torch.testing.assert_close(encoder(pixels_of(images)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("levels", [(), (32,), (16, 32), (8, 16, 32)])
def test_levels_of_a_cnn_are_joined_on_the_finest_grid(tmp_path, levels):
    network = scramble(timm.create_model("test_efficientnet"))
    save_for_hf(network, tmp_path)
    images = radiographs(160)
    encoder = load_vision(str(tmp_path), levels=levels)
    every = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True).eval()
    strides = every.feature_info.reduction()
    cfg = network.pretrained_cfg
    mean, std = (torch.tensor(cfg[name])[:, None, None] for name in ("mean", "std"))
    assert encoder.preprocessing.size == (160, 160)
    with torch.no_grad():
        maps = every((pixels_of(images) - mean) / std)
    wanted = [maps[strides.index(stride)] for stride in levels or (32,)]
    grid = torch.cat([F.interpolate(x, size=wanted[0].shape[2:], mode="bilinear") for x in wanted], 1)
    found = encoder(pixels_of(images))
    torch.testing.assert_close(found[:, 1:], grid.flatten(2).mT, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[:, 0], grid.mean((2, 3)), rtol=0, atol=1e-4)
    assert (encoder.rows, encoder.columns) == tuple(wanted[0].shape[2:])


def test_a_folder_is_read_without_its_library_being_named(tmp_path):
    dinov2(tmp_path / "d")
    assert Path(tmp_path / "d" / "preprocessor_config.json").is_file()
    assert load_vision(str(tmp_path / "d")).preprocessing.mean == (0.5307,) * 3


def test_dinov3_at_its_own_size(tmp_path):
    """Its processor resizes in floating point, unlike the others; at its own size there is nothing to resize."""
    from transformers import AutoImageProcessor, DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

    config = DINOv3ViTConfig(**SMALL, image_size=64, patch_size=16, num_register_tokens=4)
    network = scramble(DINOv3ViTModel(config))
    network.save_pretrained(tmp_path)
    DINOv3ViTImageProcessor(size=square(64)).save_pretrained(tmp_path)
    images = radiographs(64)
    with torch.no_grad():
        own = AutoImageProcessor.from_pretrained(tmp_path)(pictures(images), return_tensors="pt")
        tokens = network(own["pixel_values"]).last_hidden_state
    expected = with_first(tokens[:, 0], tokens[:, 5:])
    found = load_vision(str(tmp_path))(pixels_of(images))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, expected.abs().max().item()))
