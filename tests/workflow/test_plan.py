"""The planner against figures worked out by hand, PyTorch's own count, and the demo's measured times."""

import json
import sys
from pathlib import Path

import pytest

from medunifier.runtime.own_encoder import FOLDER
from tests.support.toy_pipeline import REPO
from workflow import plan
from workflow.encoder_sizes import Vit, encoder_of

MEASURED = json.loads(max((REPO / "benchmarks/results").glob("stages-*.json")).read_text())


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.chdir(REPO)


def planned(monkeypatch, capsys, words: str) -> dict[str, dict[str, list[float]]]:
    """Kind of features -> stage -> the figures of its line: TB left, TB read, GB/s, GPU h, wall h."""
    monkeypatch.setattr(sys, "argv", ["plan", *words.split()])
    assert plan.main() == 0
    found: dict[str, dict[str, list[float]]] = {}
    for line in capsys.readouterr().out.splitlines():
        cells = line.split()
        if line.endswith("features"):
            kind = cells[0]
            found[kind] = {}
        elif found and len(cells) in (5, 6) and line.startswith("  "):
            found[kind][cells[0]] = [float(cell) for cell in cells[1:]]
    return found


def test_ten_million_images_by_hand(monkeypatch, capsys):
    found = planned(monkeypatch, capsys, "--images 1e7 --gpus 64 --preset lean --passes 20 --gpu-tflops 100")
    cached, online = found["Cached"], found["Online"]
    assert cached["extract_features"][0] == pytest.approx(1e7 * 257 * 1408 * 2 / 1e12, abs=1e-3)
    assert cached["decode_images"][0] == pytest.approx(1e7 * 224 * 224 / 1e12, abs=1e-3)
    assert "extract_features" not in online
    vit = MEASURED["forward_gflop"]["lean"]["vit"] * 1e9
    assert cached["extract_features"][3] == pytest.approx(1e7 * vit / 100e12 / 3600, rel=0.01)
    assert cached["extract_features"][4] == pytest.approx(cached["extract_features"][3] / 64, abs=0.01)
    # at every pass the ViT runs again, and its tokens need not be read
    more = online["pretrain"][3] - cached["pretrain"][3]
    assert more == pytest.approx(20 * cached["extract_features"][3], rel=0.01)
    assert online["pretrain"][1] < cached["pretrain"][1] / 10


def test_flop_of_a_vit_as_pytorch_counts_them():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    vit = Vit(width=192, blocks=2, mlp=768, patch=14)
    width, blocks, mlp, patch = vit.width, vit.blocks, vit.mlp, vit.patch
    layers = [torch.nn.TransformerEncoderLayer(width, 1, mlp, batch_first=True) for _ in range(blocks)]
    with FlopCounterMode(display=False) as counter:
        x = torch.nn.Conv2d(3, width, patch, patch)(torch.zeros(1, 3, 224, 224)).flatten(2).transpose(1, 2)
        x = torch.cat([x, x[:, :1]], 1)
        for layer in layers:
            x = layer.train()(x)
    assert vit.flops(224) == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert vit.tokens(224) == x.shape[1]


@pytest.mark.parametrize("size", [160, 224])
@pytest.mark.parametrize("levels", [(16, 32), (), (8,)])
def test_flop_and_features_of_the_cnn_as_pytorch_and_timm_have_them(size, levels):
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    sizes = encoder_of({"model": None, "folder": FOLDER, "levels": levels, "skip_last_blocks": 0})
    network = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        maps = dict(
            zip(network.feature_info.reduction(), network(torch.zeros(1, 3, size, size)), strict=True)
        )
    assert sizes.flops(size) == pytest.approx(counter.get_total_flops(), rel=1e-3)
    chosen = [maps[level] for level in levels or (32,)]
    assert sizes.width == sum(one.shape[1] for one in chosen)
    assert sizes.tokens(size) == 1 + max(one[0, 0].numel() for one in chosen)


def test_the_demo_s_encoder(monkeypatch, capsys):
    sizes = plan.load_sizes(REPO / "workflow/presets/demo.yaml")
    assert (sizes.tokens, sizes.encoder.width, sizes.feature_bytes) == (101, 432, 101 * 432 * 2)
    assert plan.load_sizes(REPO / "workflow/presets/lean.yaml").encoder.blocks == 39


def test_a_cnn_on_cores_takes_the_speed_of_a_cnn(monkeypatch, capsys, tmp_path: Path):
    speeds = {name: value for name, value in MEASURED.items() if name != "core_gflops_cnn"}
    (tmp_path / "old.json").write_text(json.dumps(speeds))
    (tmp_path / "new.json").write_text(json.dumps(speeds | {"core_gflops_cnn": 4.0}))
    words = "--images 1e6 --gpus 0 --cores 1 --preset demo --measured"
    monkeypatch.setattr(sys, "argv", ["plan", *words.split(), str(tmp_path / "old.json")])
    assert plan.main() == 1 and "no speed of a CNN on a core; python -m benchmarks" in capsys.readouterr().err
    cached = planned(monkeypatch, capsys, f"{words} {tmp_path / 'new.json'}")["Cached"]
    flop = plan.load_sizes(REPO / "workflow/presets/demo.yaml").encoder_flops
    assert cached["extract_features"][4] == pytest.approx(1e6 * flop / 4e9 / 3600, abs=0.01)


def test_the_demo_s_measured_times(monkeypatch, capsys):
    """Each stage that works long enough for start-up not to matter, within a factor of two."""
    work, seconds = MEASURED["demo_worked_on"], MEASURED["demo_core_seconds"]
    words = f"--images {work['decoded']} --passes {work['pairs_trained_on'] / work['decoded']} --pixels {work['source_pixels']}"
    cached = planned(monkeypatch, capsys, f"{words} --gpus 0 --cores 1 --preset demo")["Cached"]
    for stage in ("pretrain", "extract_features"):
        assert 0.5 < cached[stage][4] * 3600 / seconds[stage] < 2, stage


def test_what_it_does_not_know_is_named(monkeypatch, capsys, tmp_path: Path):
    params = tmp_path / "params.yaml"
    text = (REPO / "workflow/presets/paper.yaml").read_text()
    params.write_text(text.replace("eva_giant_patch14_clip_224", "some_other_vit"))
    with pytest.raises(plan.InputError, match="sizes unknown; known: eva_giant_patch14"):
        plan.load_sizes(params)
    monkeypatch.setattr(sys, "argv", ["plan", "--images", "0", "--gpus", "1"])
    assert plan.main() == 1
    assert "--images must be at least 1" in capsys.readouterr().err
