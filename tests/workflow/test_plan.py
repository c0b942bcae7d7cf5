"""The planner against figures worked out by hand, PyTorch's own count, and the demo's measured times."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.toy_pipeline import REPO
from workflow import plan

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


def test_flop_of_the_vit_as_pytorch_counts_them():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    sizes = plan.load_sizes(REPO / "workflow/presets/demo.yaml")
    width, blocks, mlp, patch = sizes.vit
    layers = [torch.nn.TransformerEncoderLayer(width, 1, mlp, batch_first=True) for _ in range(blocks)]
    with FlopCounterMode(display=False) as counter:
        x = torch.nn.Conv2d(3, width, patch, patch)(torch.zeros(1, 3, 224, 224)).flatten(2).transpose(1, 2)
        x = torch.cat([x, x[:, :1]], 1)
        for layer in layers:
            x = layer.train()(x)
    assert sizes.vit_flops == pytest.approx(counter.get_total_flops(), rel=0.05)


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
