"""Weights of other packages as an encoder's folder; the real EfficientNet-Lite0, where it lies in shared/."""

import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file

from medunifier.runtime.errors import InputError
from medunifier.vision.convert import timm_folder, write_torchxrayvision
from medunifier.vision.frozen_encoder import load_vision
from tests.support.encoder_folders import pixels_of, radiographs, scramble
from tests.support.paths import REPO, SHARED

NAME = "test_efficientnet"


def test_weights_with_other_names_are_assigned_in_their_order(tmp_path):
    network = scramble(timm.create_model(NAME))
    others = {
        f"backbone.{i}": tensor
        for i, (name, tensor) in enumerate(network.state_dict().items())
        if not name.endswith("num_batches_tracked")
    }
    torch.save(others, tmp_path / "weights.pth")
    assert timm_folder(NAME, tmp_path / "weights.pth", tmp_path / "folder") == "in their order"
    torch.save({"state_dict": network.state_dict()}, tmp_path / "named.pth")
    assert timm_folder(NAME, tmp_path / "named.pth", tmp_path / "named") == "by name"
    images = pixels_of(radiographs(160))
    cfg = network.pretrained_cfg
    mean, std = (torch.tensor(cfg[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        expected = network.forward_intermediates((images - mean) / std)[1][-1].flatten(2).mT
    for folder in ("folder", "named"):
        found = load_vision(str(tmp_path / folder))(images)
        torch.testing.assert_close(found[:, 1:], expected, rtol=0, atol=1e-4)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    network = timm.create_model(NAME)
    torch.save(dict(list(network.state_dict().items())[:-1]), tmp_path / "few.pth")
    with pytest.raises(InputError, match=f"weights; timm's {NAME} has"):
        timm_folder(NAME, tmp_path / "few.pth", tmp_path / "folder")
    wrong = network.state_dict() | {"classifier.weight": torch.zeros(3, 3)}
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match=r"\(3, 3\) where timm's .* has classifier.weight"):
        timm_folder(NAME, tmp_path / "wrong.pth", tmp_path / "folder")
    with pytest.raises(InputError, match="timm has no model 'nothing'"):
        timm_folder("nothing", tmp_path / "few.pth", tmp_path / "folder")


@pytest.mark.slow
def test_the_command_reports_a_pickle_that_runs_code_and_does_not_run_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    command = [
        sys.executable,
        "-m",
        "medunifier.vision.convert",
        "timm",
        NAME,
        tmp_path / "evil.pth",
        tmp_path / "out",
    ]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "nothing in it was run" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "ran").exists()


def test_torchxrayvision_s_folder_is_one_that_loads(tmp_path):
    import torchvision

    network = torchvision.models.densenet121(num_classes=18)
    network.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    write_torchxrayvision("densenet121-res224-all", network.state_dict(), tmp_path)
    encoder = load_vision(str(tmp_path))
    assert (encoder.width, encoder.rows, encoder.preprocessing.channels) == (1024, 7, 1)


@pytest.mark.slow
def test_the_real_efficientnet_lite0(tmp_path):
    """Its package's form: the same tensors in their order, under other names."""
    real = SHARED / "weights/tf_efficientnet_lite0"
    if not real.is_dir():
        pytest.skip("shared/weights, with the weights of EfficientNet-Lite0, is not on this machine")
    tensors = load_file(real / "model.safetensors")
    order = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save(
        {f"_{i}": tensors[name] for i, name in enumerate(order) if name in tensors}, tmp_path / "lite0.pth"
    )
    assert (
        timm_folder("tf_efficientnet_lite0", tmp_path / "lite0.pth", tmp_path / "lite0") == "in their order"
    )
    images = pixels_of(radiographs(224))
    encoder, other = (load_vision(str(folder), levels=(16, 32)) for folder in (real, tmp_path / "lite0"))
    found = encoder(images)
    assert torch.equal(found, other(images)) and encoder.checksum == other.checksum
    assert (encoder.rows, encoder.columns, encoder.width) == (14, 14, 432)
    assert encoder.preprocessing.mean == (0.5,) * 3 and encoder.preprocessing.interpolation == "bicubic"
    plain = timm.create_model(f"local-dir:{real}", pretrained=True, features_only=True).eval()
    with torch.no_grad():
        deep = plain((images - 0.5) / 0.5)[-1]
    alone = load_vision(str(real))(images)
    torch.testing.assert_close(alone[:, 1:], deep.flatten(2).mT, rtol=0, atol=1e-5)
