"""Frozen encoders by folder: saved by timm and by transformers, loaded through the real path."""

import json

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import Blip2VisionConfig, Blip2VisionModel, ViTModel

from medunifier.runtime.errors import InputError
from medunifier.vision.frozen_encoder import load_recorded_vision, load_vision
from medunifier.vision.preprocessing import IMAGENET, whole_images
from tests.support.encoder_folders import SMALL, save_unit_processor

PIXELS = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def timm_vit(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("timm")
    sizes = {"img_size": 224, "patch_size": 14, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **sizes)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "model_args": sizes,
        "pretrained_cfg": {},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder, model.eval()


def test_transformers_folder(transformers_vit):
    vision = load_vision(str(transformers_vit))
    expected = ViTModel.from_pretrained(transformers_vit).eval()(pixel_values=PIXELS).last_hidden_state
    tokens = vision(PIXELS)
    assert tokens.shape == (2, 257, 32)
    torch.testing.assert_close(tokens, expected)


def test_timm_folder(timm_vit):
    folder, model = timm_vit
    torch.testing.assert_close(
        load_vision(str(folder), pixels="unit")(PIXELS), model.forward_features(PIXELS)
    )


def test_frozen_and_always_evaluating(transformers_vit):
    vision = load_vision(str(transformers_vit)).train()
    assert not any(m.training for m in vision.modules())
    assert not any(p.requires_grad for p in vision.parameters())


def test_last_blocks_left_out_with_the_final_norm(transformers_vit, timm_vit):
    full = ViTModel.from_pretrained(transformers_vit).eval()
    hidden = full(pixel_values=PIXELS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(load_vision(str(transformers_vit), None, 1)(PIXELS), hidden[2])
    folder, model = timm_vit
    states = model.forward_intermediates(
        PIXELS, indices=[1], norm=False, output_fmt="NLC", return_prefix_tokens=True
    )
    patches, prefix = states[1][0]
    found = load_vision(str(folder), None, 1, pixels="unit")(PIXELS)
    torch.testing.assert_close(found, torch.cat([prefix, patches], 1))
    with pytest.raises(InputError, match="skip_last_blocks is 3, but the model has 3 blocks"):
        load_vision(str(folder), None, 3)


@pytest.fixture(scope="module")
def eva_vit(tmp_path_factory):
    """The paper's kind of encoder, small: EVA's giant with width 32 and 3 blocks, as timm saves it."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "depth": 3, "num_heads": 2}
    model = timm.create_model("eva_giant_patch14_224", num_classes=0, **sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms start at 0 and 1, which hides their place
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("eva")
    timm.models.save_for_hf(model, folder, model_args=sizes)
    return folder, model


def test_eva_without_its_last_block_equals_its_equations(eva_vit):
    """Pre-norm blocks written out: heads of 16, biases on queries and values alone, exact GELU."""
    folder, model = eva_vit
    w = {name: value.double() for name, value in model.state_dict().items()}

    def norm(x, name):
        return F.layer_norm(x, (32,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    patches = PIXELS.double().unfold(2, 14, 14).unfold(3, 14, 14)  # (2, 3, 16, 16, 14, 14)
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(2, 256, -1)
    x = patches @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
    x = torch.cat([w["cls_token"].expand(2, 1, 32), x], 1) + w["pos_embed"]
    for block in ("blocks.0", "blocks.1"):
        bias = torch.cat([w[f"{block}.attn.q_bias"], torch.zeros(32), w[f"{block}.attn.v_bias"]])
        qkv = norm(x, f"{block}.norm1") @ w[f"{block}.attn.qkv.weight"].T + bias
        q, k, v = qkv.reshape(2, 257, 3, 2, 16).permute(2, 0, 3, 1, 4)
        attended = (q @ k.transpose(2, 3) / 4).softmax(3) @ v
        x = x + linear(attended.transpose(1, 2).reshape(2, 257, 32), f"{block}.attn.proj")
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        x = x + linear(hidden, f"{block}.mlp.fc2")
    found = load_vision(str(folder), None, 1, pixels="unit")(PIXELS)
    torch.testing.assert_close(found.double(), x, rtol=0, atol=1e-4)


def test_blip2_vision_folder(tmp_path):
    torch.manual_seed(0)
    config = Blip2VisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.02,
    )
    model = Blip2VisionModel(config).eval()
    model.save_pretrained(tmp_path)
    expected = model(pixel_values=PIXELS).last_hidden_state
    torch.testing.assert_close(load_vision(str(tmp_path), pixels="unit")(PIXELS), expected)


def test_checksum_differs_with_the_weights(transformers_vit, tmp_path):
    one = load_vision(str(transformers_vit)).checksum
    assert one == load_vision(str(transformers_vit)).checksum
    model = ViTModel.from_pretrained(transformers_vit)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    model.save_pretrained(tmp_path)
    save_unit_processor(tmp_path)
    assert load_vision(str(tmp_path)).checksum != one


def test_a_checkpoint_without_pooler_has_one_checksum(transformers_vit, tmp_path):
    ViTModel.from_pretrained(transformers_vit, add_pooling_layer=False).save_pretrained(tmp_path)
    save_unit_processor(tmp_path)
    assert len({load_vision(str(tmp_path)).checksum for _ in range(2)}) == 1
    load_vision(str(tmp_path))(PIXELS)


def save_vit(kind, folder, **changes):
    """A small transformers ViT in a folder, that reads pixels in [0, 1]."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(kind, **(SMALL | {"num_hidden_layers": 1} | changes))
    AutoModel.from_config(config).save_pretrained(folder)
    save_unit_processor(folder, changes.get("image_size", 224))
    return str(folder)


def test_patches_of_16_pixels(tmp_path):
    vit = load_vision(save_vit("vit", tmp_path, patch_size=16))
    assert vit(torch.rand(2, 3, 224, 224)).shape == (2, 197, 32)


def test_the_encoder_s_own_size_is_read_whatever_is_stored(tmp_path):
    vit = load_vision(save_vit("vit", tmp_path, image_size=384))
    assert vit(torch.rand(1, 3, 224, 224)).shape == (1, 577, 32)


def test_another_preprocessing_is_another_checksum_and_is_refused_where_it_is_not_the_recorded_one(
    transformers_vit, tmp_path
):
    ViTModel.from_pretrained(transformers_vit).save_pretrained(tmp_path)
    save_unit_processor(tmp_path)
    record = load_vision(str(tmp_path)).record()
    assert record["preprocessing"] == {
        "size": [224, 224],
        "resized": [224, 224],
        "interpolation": "bicubic",
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
    }
    assert record["grid"] == [16, 16] and record["pixels"] == "model"
    assert load_recorded_vision(json.loads(json.dumps(record))).checksum == record["checksum"]
    settings = {
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": 224,
        "resample": 2,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="other weights or another preprocessing than those"):
        load_recorded_vision(record)
    checksums = {
        load_vision(str(tmp_path), pixels=p, size=s).checksum for p in ("unit", "model") for s in (None, 112)
    }
    assert len(checksums) == 4


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("timm:tf_efficientnet_lite0.in1k", "hf-hub:timm/tf_efficientnet_lite0.in1k@abc"),
        (
            "timm:hf-hub:timm/eva_giant_patch14_clip_224.laion400m",
            "hf-hub:timm/eva_giant_patch14_clip_224.laion400m@abc",
        ),
    ],
)
def test_a_commit_of_a_timm_model_is_one_of_its_repository_on_the_hub(monkeypatch, model, asked):
    names = []
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, **_: names.append(name) or timm.models.create_model("test_vit", num_classes=0),
    )
    load_vision(model, "abc")
    assert names == [asked]


@pytest.mark.parametrize("size", [(160, 160), (224, 224)])
def test_the_equal_channels_of_a_grey_image_are_prepared_once_alike(size):
    prepare = whole_images(size, IMAGENET, "bicubic")
    levels = torch.randint(0, 256, (2, 1, 224, 224), generator=torch.Generator().manual_seed(0))
    grey = (levels.float() / 255).expand(-1, 3, -1, -1)
    assert torch.equal(prepare(grey), prepare(grey.contiguous()))
    assert prepare(grey).shape == (2, 3, *size)
