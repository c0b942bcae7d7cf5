"""benchmarks.real_ablation: what objectives add, as means over seeds of paired differences on the same items."""

import json

import numpy as np
import pytest

from benchmarks import real_ablation
from benchmarks.real_ablation import differences, in_words, tables_of, trained_sets, values_of
from medunifier.report.differences import evaluations
from medunifier.results.item_scores import item_rows
from medunifier.runtime.params import load_params
from tests.support.params_files import edited
from tests.support.paths import REPO

ITEMS = [f"image {n}" for n in range(60)]
PATIENTS = [f"patient {n // 2}" for n in range(60)]
SETS = {"itc": (1, 0, 0, 0), "full": (1, 1, 1, 1)}


@pytest.fixture
def params(tmp_path):
    variants = {
        f"{name}_{seed}": {**dict(zip(("itc", "itm", "itg", "tig"), weights, strict=True)), "seed": seed}
        for name, weights in SETS.items()
        for seed in (0, 5)
    }
    changes = {
        "preset": "toy",
        "variants": variants,
        "trained": {"itc": list(variants), "itg": ["full_0", "full_5"], "tig": ["full_0"]},
        "evaluate.finetune_models": ["full_0"],
        "evaluate.zero_shot": [],
    }
    return load_params(edited(tmp_path, changes))


def right(stage: str) -> np.ndarray:
    """Whether each item is right: `full` has 30 or 36 of 60, `itc` 20 in the mean and other ones with each seed."""
    rng = np.random.default_rng(sum(map(ord, stage)))
    count = {"full_0": 30, "full_5": 36, "itc_0": 18, "itc_5": 22}[stage.split("@")[1].split("-")[0]]
    return rng.permutation(np.arange(60) < count).astype(float)


def test_a_difference_is_the_mean_over_seeds(params, monkeypatch):
    def read(stage):
        return item_rows("i2t_map_at_1", ITEMS, PATIENTS, right(stage))

    monkeypatch.setattr(real_ablation, "read_items", read)
    sets = trained_sets(params)
    assert sets == {(1, 0, 0, 0): {0: "itc_0", 5: "itc_5"}, (1, 1, 1, 1): {0: "full_0", 5: "full_5"}}
    found = {
        evaluation: stages for evaluation, stages in evaluations(params) if evaluation == "retrieve phantom"
    }
    (line,) = differences(params, sets, found)
    assert (line["added"], line["evaluation"]) == ("ITM, ITG and TIG to ITC", "retrieve")
    assert line["of seeds"] == pytest.approx([100 * 12 / 60, 100 * 14 / 60])
    value, low, high, n = line["difference"]
    assert value == pytest.approx(100 * 13 / 60) and n == 60

    # The interval, by a plain bootstrap over patients of the mean of both seeds' differences.
    each = sum(right(f"retrieve@full_{s}-phantom") - right(f"retrieve@itc_{s}-phantom") for s in (0, 5)) / 2
    of_patient, rng = each.reshape(30, 2).mean(1), np.random.default_rng(1)
    means = [of_patient[rng.integers(0, 30, 30)].mean() for _ in range(4000)]
    assert [low, high] == pytest.approx(100 * np.quantile(means, [0.025, 0.975]), abs=1.5)


def test_sets_that_lack_a_seed_are_not_compared(params):
    with pytest.raises(SystemExit, match="not trained from the same seeds"):
        trained_sets(
            params.replace(variants={name: v for name, v in params.variants.items() if name != "itc_5"})
        )


def test_values_are_the_stages_own(params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/metrics").mkdir(parents=True)
    for name, value in {"full_0": 40.0, "full_5": 43.0}.items():
        metrics = {"i2t_map_at_1": value, "i2t_map_at_1_ci_low": 1.0, "n_items": 60}
        (tmp_path / f"results/metrics/retrieve@{name}-phantom.json").write_text(json.dumps(metrics))
    found = {e: stages for e, stages in evaluations(params) if e.startswith("retrieve")}
    assert values_of({0: "full_0", 5: "full_5"}, found) == {"retrieve": {"i2t_map_at_1": [40.0, 43.0]}}


def test_tables_of_a_record():
    record = {
        "sets": [
            {"weights": [1, 1, 0, 0.8], "values": {"retrieve": {"i2t_map_at_1": [40.0, 43.0, 43.0]}}},
            {"weights": [1, 1, 1, 1], "values": {"write_reports": {"findings_f1_micro": [50.0, 51.0]}}},
        ],
        "added": [
            {
                "added": "ITM to ITC",
                "evaluation": "retrieve",
                "metric": "i2t_map_at_1",
                "difference": [1.04, -2.0, 4.0, 60],
                "of seeds": [0.0, 1.0, 2.0],
            }
        ],
    }
    assert tables_of(record).splitlines() == [
        "| objectives | report for an image, mAP@1 | findings in reports, micro F1 |",
        "|---|---|---|",
        "| ITC, ITM, TIG (weight 0.8) | 42.0 (1.7) |  |",
        "| ITC, ITM, ITG, TIG |  | 50.5 (0.7) |",
        "",
        "| added | report for an image, mAP@1 | findings in reports, micro F1 |",
        "|---|---|---|",
        "| ITM to ITC | +1.0 [-2.0, +4.0] (1.0) |  |",
    ]
    assert in_words([1.0, 1.0, 1.0, 1.0]) == "ITC, ITM, ITG, TIG"


@pytest.mark.parametrize("preset", ["nih-small", "kermany"])
def test_the_presets_train_every_set_from_three_seeds(preset):
    one = load_params(REPO / f"workflow/presets/{preset}.yaml")
    several = load_params(REPO / f"workflow/presets/{preset}-ablation.yaml")
    sets = trained_sets(several)
    assert len(sets) == 7 and {frozenset(seeds) for seeds in sets.values()} == {frozenset({0, 1, 2})}
    ablation = load_params(REPO / "workflow/presets/ablation.yaml")
    assert set(sets) == {tuple(v.weights.values()) for v in ablation.variants.values()}
    for words, without, with_it in real_ablation.ADDED:
        assert without in sets and with_it in sets, words
    assert several.evaluate.finetune_models == several.trained.itc == tuple(several.variants)
    for section, values in one:  # nothing else differs
        if section not in ("preset", "variants", "trained", "evaluate"):
            assert getattr(several, section) == values, section
    assert several.evaluate.replace(finetune_models=one.evaluate.finetune_models) == one.evaluate


@pytest.mark.parametrize("page", ["nih-small", "kermany"])
def test_the_tables_of_a_page_are_those_of_its_record(page):
    text = (REPO / f"docs/results/{page}.md").read_text(encoding="utf-8")
    record = max((REPO / "benchmarks/results").glob(f"objectives-{page}-ablation-2*.json"))
    assert record.name in text
    for table in tables_of(json.loads(record.read_text(encoding="utf-8"))).split("\n\n"):
        assert table in text
