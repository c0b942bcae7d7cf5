"""The printed headline: the right figures beside the right references."""

import json
import math
import shutil
from pathlib import Path

import pytest

from benchmarks.learning import learnt
from medunifier.runtime.params import Params, load_params
from tests.support.toy_pipeline import REPO
from workflow.headline import CONSTANT_ANSWER, headline

METRICS = {
    "pretrain@full": {
        **{f"val_{loss}_first": 2.0 for loss in ("itc", "itm", "itg", "tig")},
        **{f"val_{loss}_last": 0.6 for loss in ("itc", "itm", "itg", "tig")},
        "perplexity_top": 52.0,
        "perplexity_bottom": 50.0,
    },
    "retrieve@full-phantom": {"i2t_map_at_1": 51.0, "i2t_map_at_1_chance": 20.0},
    "write_reports@full-phantom": {"bleu_4": 0.3, "constant_bleu_4": 0.2},
    "score_images@full": {"psnr_reconstruction": 24.0, "psnr_mean_image": 18.0},
}


@pytest.fixture
def params() -> Params:
    return load_params(REPO / "workflow/presets/demo.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for stage, values in METRICS.items():
        (tmp_path / f"{stage}.json").write_text(json.dumps(values))
    return tmp_path


def test_each_promise_is_judged(params: Params, folder: Path) -> None:
    lines = headline(params, folder)["full"]
    assert [line.good for line in lines] == [True] * 9 + [False], "50 codes are less than a tenth of 512"


@pytest.mark.parametrize(
    ("stage", "metric", "value", "line"),
    [
        ("pretrain@full", "val_itm_last", 1.9, 1),
        ("pretrain@full", "val_itm_last", 0.64, 2),
        ("retrieve@full-phantom", "i2t_map_at_1", 49.0, 5),
        ("write_reports@full-phantom", "bleu_4", 0.2, 6),
        ("score_images@full", "psnr_reconstruction", 23.9, 7),
        ("pretrain@full", "perplexity_top", 51.0, 8),
    ],
)
def test_a_promise_not_kept_is_told(params, folder, stage: str, metric: str, value: float, line: int) -> None:
    (folder / f"{stage}.json").write_text(json.dumps(METRICS[stage] | {metric: value}))
    judged = headline(params, folder)["full"][line]
    assert not judged.good and "NOT reached" in str(judged)


def test_what_is_missing_is_said(params: Params, tmp_path: Path) -> None:
    lines = headline(params, tmp_path)["full"]
    assert len(lines) == 10 and all("not measured" in str(line) for line in lines)


def test_a_variant_without_an_objective_is_not_judged_by_it(params: Params, folder: Path) -> None:
    without = {
        "variants": {"full": params.variants["full"].replace(tig=0.0)},
        "trained": params.trained.replace(tig=()),
    }
    lines = headline(params.replace(**without), folder)["full"]
    assert not any(
        "image generation" in line.what or "PSNR" in line.what or "codes" in line.what for line in lines
    )


@pytest.mark.parametrize(
    ("fidelity", "low", "good"), [(40.0, 28.0, True), (27.0, 28.0, False), (40.0, 19.0, False)]
)
def test_fidelity_to_prompts(params: Params, folder: Path, fidelity: float, low: float, good: bool) -> None:
    """At least twice chance, and intervals apart from those of images drawn without a text."""
    values = {"prompt_fidelity": fidelity, "prompt_fidelity_ci_low": low, "prompt_fidelity_chance": 14.0}
    values |= {"prompt_fidelity_unconditional_ci_high": 20.0}
    (folder / "score_images@full.json").write_text(json.dumps(METRICS["score_images@full"] | values))
    line = headline(params, folder)["full"][8]
    assert line.what == "prompt fidelity (%)" and line.good is good


def test_the_matching_loss_that_needs_no_image() -> None:
    """The best constant chance of a match, one of three pairs being one."""
    losses = [-(math.log(p) + 2 * math.log(1 - p)) / 3 for p in (i / 3000 for i in range(1, 3000))]
    assert min(losses) == pytest.approx(CONSTANT_ANSWER)


def test_runs_are_kept_side_by_side(folder: Path, tmp_path_factory) -> None:
    """`benchmarks.learning` tells each run's seed, its figures as they are judged, and their intervals."""
    run = tmp_path_factory.mktemp("run")
    text = (REPO / "workflow/presets/demo.yaml").read_text()
    (run / "params.yaml").write_text(text.replace("\nseed: 0 ", "\nseed: 7 "))
    shutil.copytree(folder, run / "results/metrics")
    values = METRICS["retrieve@full-phantom"] | {"i2t_map_at_1_ci_low": 48.0, "i2t_map_at_1_ci_high": 54.0}
    (run / "results/metrics/retrieve@full-phantom.json").write_text(json.dumps(values))
    (found,) = learnt(run)
    assert (found["seed"], found["variant"]) == (7, "full")
    assert found["figures"]["image to report, mAP@1 (%) | chance (target: 2.5 times)"] == [
        51.0,
        20.0,
        True,
    ]
    assert found["figures"]["codes in use, bottom (perplexity) | target, of 512 codes"][2] is False
    assert found["intervals"] == {"i2t_map_at_1": [51.0, 48.0, 54.0]}
