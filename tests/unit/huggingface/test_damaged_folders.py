"""A model folder that is damaged or hostile: one clear line, by both ways of loading, and no memory filled."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medunifier.evaluation.loading import load_trained
from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from medunifier.runtime.errors import InputError
from tests.support.trained_project import VARIANT, make_project

FOLDER = f"models/{VARIANT}"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)


def refusals():
    """The messages of both ways of loading."""
    found = []
    for load in (lambda: load_trained(VARIANT), lambda: MedUnifierModel.from_pretrained(FOLDER)):
        with pytest.raises(InputError) as refused:
            load()
        found.append(refused)
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 0},
        {"vocab_size": 10**12},
        {"layers": -1},
        {"width": 17},
        {"decoder_channels": [0]},
        {"negatives": "none"},
        {"vision_tokens": 250},
        {"dropout": 7.0},
    ],
    ids=str,
)
def test_sizes_of_no_network_are_named_before_anything_is_built(project, change):
    path = Path(FOLDER) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for refused in refusals():
        assert "\n" not in str(refused.value)
        assert next(iter(change)) in str(refused.value)


@pytest.mark.parametrize("content", ["[]", "7", '{"model_type": "medunifier", "heads": "two"}', "{"])
def test_a_config_that_is_none_is_refused_in_one_line(project, content):
    (Path(FOLDER) / "config.json").write_text(content)
    for refused in refusals():
        assert "\n" not in str(refused.value) and "config.json" in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(project, value):
    path = Path(FOLDER) / "model.safetensors"
    weights = load_file(path)
    name = next(name for name, tensor in weights.items() if tensor.ndim == 2)
    weights[name][0, 0] = value
    save_file(weights, path, metadata={"format": "pt"})
    for refused in refusals():
        assert f"weight {name} has 1 of {weights[name].numel()} values that are NaN or infinite" in str(
            refused.value
        )


def test_weights_near_the_end_of_the_range_are_finite(project):
    path = Path(FOLDER) / "model.safetensors"
    weights = load_file(path)
    weights["log_temperature"] = torch.tensor(0.0)
    name = next(name for name, tensor in weights.items() if tensor.ndim == 2)
    weights[name].fill_(3e38)  # their sum is not
    save_file(weights, path, metadata={"format": "pt"})
    load_trained(VARIANT)
