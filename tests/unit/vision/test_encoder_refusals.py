"""Frozen encoders that cannot be used are refused in one line."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import ViTModel

from medunifier.runtime.errors import InputError
from medunifier.vision.frozen_encoder import load_vision
from tests.support.encoder_folders import SMALL, save_unit_processor


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"has no config\.json"):
        load_vision(str(tmp_path))


def test_a_size_that_the_model_does_not_take_is_refused(tmp_path):
    folder = tmp_path / "vit"
    folder.mkdir()
    config = {"architecture": "test_vit", "num_classes": 0, "model_args": {}, "pretrained_cfg": {}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "model.safetensors")
    with pytest.raises(InputError, match=r"takes no images of 31 x 31 pixels.*Leave vision.size null"):
        load_vision(str(folder), size=31)


def test_a_folder_that_does_not_tell_its_preprocessing_is_refused(transformers_vit, tmp_path):
    ViTModel.from_pretrained(transformers_vit).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"no preprocessor_config.json.*set vision.pixels: unit"):
        load_vision(str(tmp_path))
    assert load_vision(str(tmp_path), pixels="unit").preprocessing.mean == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[1]", "holds a JSON list; expected an object"),
        ("{", "cannot be read as JSON"),
        ('{"do_normalize": false, "size": "large"}', "not understood as the preprocessing"),
        ('{"do_normalize": false, "size": 1000000}', "expected 1 to 4096"),
        (
            '{"do_normalize": true, "image_mean": [0.5], "image_std": [0, 0, 0], "size": 224, "resample": 3}',
            "expected 1 or 3 values each",
        ),
        ('{"do_normalize": false, "size": 224, "resample": 17}', "not understood as the preprocessing"),
    ],
)
def test_a_broken_preprocessing_is_refused_in_one_line(transformers_vit, tmp_path, settings, message):
    ViTModel.from_pretrained(transformers_vit).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(settings)
    with pytest.raises(InputError, match=message) as refused:
        load_vision(str(tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("config", ["[]", '"vit"', "{", '{"model_type": 7}', '{"architecture": []}', "{}"])
def test_a_broken_config_is_refused_in_one_line(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError) as refused:
        load_vision(str(tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [{"num_attention_heads": 0}, {"hidden_size": "wide"}, {"hidden_size": 10**12}, {"num_hidden_layers": -1}],
)
def test_a_config_with_impossible_sizes_is_refused_in_one_line(transformers_vit, tmp_path, changes):
    ViTModel.from_pretrained(transformers_vit).save_pretrained(tmp_path)
    save_unit_processor(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError) as refused:
        load_vision(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_missing_weights_are_refused_instead_of_being_random(transformers_vit, tmp_path):
    model = ViTModel.from_pretrained(transformers_vit)
    weights = {k: v for k, v in model.state_dict().items() if "layer.2" not in k and "layers.2" not in k}
    model.save_pretrained(tmp_path, state_dict=weights)
    save_unit_processor(tmp_path)
    with pytest.raises(InputError, match=r"lacks \d+ weights of its ViTModel"):
        load_vision(str(tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(transformers_vit, tmp_path, value):
    model = ViTModel.from_pretrained(transformers_vit)
    with torch.no_grad():
        model.embeddings.cls_token[0, 0, 3] = value
    model.save_pretrained(tmp_path)
    save_unit_processor(tmp_path)
    with pytest.raises(InputError, match=r"weight embeddings.cls_token has 1 of 32 values that are NaN"):
        load_vision(str(tmp_path))


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for kind in ({"model_type": "vit"}, {"architecture": "test_vit"}, {"torchvision": "resnet18"}):
        (tmp_path / "config.json").write_text(json.dumps(kind))
        torch.save({"weight": Evil()}, tmp_path / "pytorch_model.bin")
        with pytest.raises(InputError):
            load_vision(str(tmp_path), pixels="unit")
    assert not (tmp_path / "ran").exists()


def test_a_masked_autoencoder_is_refused(tmp_path):
    from transformers import ViTMAEConfig, ViTMAEModel

    ViTMAEModel(ViTMAEConfig(**SMALL, image_size=64, patch_size=16)).save_pretrained(tmp_path)
    save_unit_processor(tmp_path, 64)
    with pytest.raises(InputError, match=r"other features for the same image|do not fill a grid"):
        load_vision(str(tmp_path))


def test_levels_are_for_cnns_that_have_them(transformers_vit, tmp_path):
    with pytest.raises(InputError, match="is no CNN with levels"):
        load_vision(str(transformers_vit), levels=(16,))
    timm.models.save_for_hf(timm.create_model("test_efficientnet"), tmp_path)
    with pytest.raises(InputError, match="no level of stride 7; it has 2, 4, 8, 16, 32"):
        load_vision(str(tmp_path), levels=(7, 32))


def test_siglip_2_for_any_shape_is_refused_with_the_one_to_take(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "siglip2"}')
    with pytest.raises(InputError, match="choose one for a fixed size"):
        load_vision(str(tmp_path))
