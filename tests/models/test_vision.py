"""Frozen encoders by folder: saved by timm and by transformers, loaded through the real path."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import Blip2VisionConfig, Blip2VisionModel, ViTConfig, ViTModel

from stages.errors import InputError
from stages.models.vision import load_vision

PIXELS = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def transformers_vit(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, patch_size=14
    )
    ViTModel(config).save_pretrained(folder)
    return folder


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
    torch.testing.assert_close(load_vision(str(folder))(PIXELS), model.forward_features(PIXELS))


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
    torch.testing.assert_close(load_vision(str(folder), None, 1)(PIXELS), torch.cat([prefix, patches], 1))
    with pytest.raises(InputError, match="skip_last_blocks is 3, but the model has 3 blocks"):
        load_vision(str(folder), None, 3)


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
    torch.testing.assert_close(load_vision(str(tmp_path))(PIXELS), expected)


def test_checksum_tells_weights_apart(transformers_vit, tmp_path):
    one = load_vision(str(transformers_vit)).checksum
    assert one == load_vision(str(transformers_vit)).checksum
    model = ViTModel.from_pretrained(transformers_vit)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    model.save_pretrained(tmp_path)
    assert load_vision(str(tmp_path)).checksum != one


def test_a_checkpoint_without_pooler_has_one_checksum(transformers_vit, tmp_path):
    ViTModel.from_pretrained(transformers_vit, add_pooling_layer=False).save_pretrained(tmp_path)
    assert len({load_vision(str(tmp_path)).checksum for _ in range(2)}) == 1
    load_vision(str(tmp_path))(PIXELS)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="has no config.json"):
        load_vision(str(tmp_path))
