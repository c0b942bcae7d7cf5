"""The stage write_reports: a model that generates the references scores 100, baselines are what they say."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from medunifier.data.tokenizer import decode
from medunifier.evaluation.loading import load_trained
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap
from medunifier.metrics.meteor import Meteor
from medunifier.metrics.text import bleu, bleu_statistics, report_protocol
from medunifier.report.differences import OF_SUMS
from medunifier.results.item_scores import read_items
from medunifier.runtime.errors import InputError
from stages import write_reports as stage
from stages.write_reports import write_reports
from tests.support.recording_run import Noting
from tests.support.report_stage import PREDICTIONS, run_write_reports, writes
from tests.support.trained_project import DATASET, SPLITS, VARIANT, make_project, report_of


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path)


@pytest.mark.slow
def test_writing_the_references_scores_100(params, monkeypatch, shared_java):
    monkeypatch.setattr(stage, "load_trained", writes(report_of))
    metrics = run_write_reports(params)
    for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l"):
        assert metrics[name] == pytest.approx(100)
        assert metrics[f"{name}_ci_low"] == pytest.approx(100)
        assert metrics[f"{name}_n"] == SPLITS["test"]
        assert metrics[f"constant_{name}"] < 95
        assert (
            metrics[f"constant_{name}_ci_low"]
            <= metrics[f"constant_{name}"]
            <= metrics[f"constant_{name}_ci_high"]
        )
    assert metrics["bleu_4_gain"] == pytest.approx(100 - metrics["constant_bleu_4"])
    assert 0 < metrics["bleu_4_gain_ci_low"] < metrics["bleu_4_gain"] < metrics["bleu_4_gain_ci_high"]
    assert metrics["release_bleu_1"] < 100, "case is lost by the tokenizer, and the release counts it"

    assert metrics["findings_f1_micro"] == metrics["findings_f1_macro"] == 100, (
        "the references tell the labels"
    )
    assert metrics["constant_findings_f1_micro"] < 100 and metrics["cider"] > metrics["constant_cider"]

    table = pl.read_parquet(PREDICTIONS)
    assert table["patient_id"].to_list() == [f"p{n // 2}" for n in range(16, 24)]
    (constant,) = table["constant"].unique()
    assert constant in [report_of(n) for n in range(12)]
    nearest = 100 * bleu(bleu_statistics(*report_protocol(table["reference"], table["nearest"])).sum(0))
    assert metrics["nearest_bleu_1"] == pytest.approx(nearest[0])
    assert table["reference"].to_list() == [report_of(n) for n in range(16, 24)]
    assert table["prediction"].to_list() == [report_of(n).lower() for n in range(16, 24)]


@pytest.mark.slow
def test_items_give_the_metrics_and_their_clustered_intervals(params, monkeypatch, shared_java):
    monkeypatch.setattr(stage, "load_trained", writes(lambda n: report_of(n + n % 3)))
    metrics = run_write_reports(params)
    items = read_items(f"write_reports@{VARIANT}-{DATASET}")
    assert items["metric"].unique(maintain_order=True).to_list() == [
        *(f"bleu_{n}" for n in range(1, 5)),
        "meteor",
        "rouge_l",
        "cider",
        "findings_f1_micro",
        "findings_f1_macro",
    ]
    options = BootstrapOptions(params.write_reports.bootstrap, params.seed)
    for (metric,), rows in items.group_by("metric", maintain_order=True):
        if rows["statistics"].null_count():
            statistics = rows.select("value", one=1.0).to_numpy()

            def score(sums):
                return sums[..., :1] / sums[..., 1:]
        else:
            statistics = np.array(rows["statistics"].to_list())

            def score(sums, metric=metric):
                return OF_SUMS[metric](sums)[..., None]

        (found,) = bootstrap(statistics, score, options.with_clusters(rows["patient_id"].to_list()))
        assert found.flat(metric, scale=100) == pytest.approx(
            {name: metrics[name] for name in (metric, f"{metric}_ci_low", f"{metric}_ci_high", f"{metric}_n")}
        )
        (blind,) = bootstrap(statistics, score, options)
        assert blind.low != pytest.approx(found.low)
        assert rows["value"].is_between(0, 10 if metric == "cider" else 1).all()


@pytest.mark.slow
def test_other_intervals_draw_patients(params, monkeypatch, shared_java):
    """Two like images of each patient say as much as one."""
    for split in SPLITS:
        path = f"data/prepared/{DATASET}/{split}.parquet"
        table = pl.read_parquet(path)
        alike = [c for c in table.columns if c not in ("image_id", "study_id", "patient_id", "image_path")]
        table.with_columns(pl.col(alike).gather_every(2).repeat_by(2).explode()).write_parquet(path)
    monkeypatch.setattr(stage, "load_trained", writes(lambda n: report_of(n // 2)))
    both = run_write_reports(params)
    path = f"data/prepared/{DATASET}/test.parquet"
    pl.read_parquet(path).gather_every(2).write_parquet(path)
    once = run_write_reports(params)
    for name in ("findings_f1_micro", "bleu_4_gain"):
        for end in ("", "_ci_low", "_ci_high"):
            assert both[name + end] == pytest.approx(once[name + end])
        assert both[f"{name}_ci_low"] < both[f"{name}_ci_high"]
        assert both[f"{name}_n"] == 2 * once[f"{name}_n"]


def test_tokens_are_chosen_as_params_say(params, monkeypatch):
    trained = load_trained(VARIANT, DATASET)
    ids = trained.images.image_ids[:4]
    features = trained.features(ids)

    def written(**choice) -> list[str]:
        return trained.generate_reports(ids, params.write_reports.replace(**choice), 5)

    greedy = {"num_beams": 1, "do_sample": False}
    for choice in (greedy, greedy | {"num_beams": 3}, greedy | {"do_sample": True, "temperature": 2.0}):
        drawn = torch.Generator().manual_seed(5)
        expected = decode(trained.tokenizer, trained.model.generate(features, generator=drawn, **choice))
        assert written(**choice) == expected
    assert written(**greedy) != written(**greedy | {"do_sample": True, "temperature": 2.0})


@pytest.mark.slow
def test_the_constant_is_chosen_on_training_reports_only(params, monkeypatch, shared_java, capsys):
    path = f"data/prepared/{DATASET}/train.parquet"
    usual = "The heart is of normal size. The lungs are clear."
    table = pl.read_parquet(path)
    reports = [usual] * 9 + table["report"].to_list()[9:]
    table.with_columns(report=pl.Series(reports)).write_parquet(path)
    metrics = run_write_reports(params)
    assert f"constant baseline, the best of 12 training reports: {usual}" in capsys.readouterr().out
    references = [report_of(n) for n in range(16, 24)]
    expected = 100 * bleu(bleu_statistics(*report_protocol(references, [usual] * 8)).sum(0))
    assert [metrics[f"constant_bleu_{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected)


@pytest.mark.slow
def test_the_real_model_generates_and_every_metric_is_there(params, shared_java):
    metrics = run_write_reports(params.replace(seed=3))
    scores = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l")
    expected = {f"{s}{p}{m}" for s in ("", "constant_", "nearest_") for p in ("", "release_") for m in scores}
    assert expected <= set(metrics)
    assert all(0 <= metrics[name] <= 100 for name in expected)
    assert run_write_reports(params.replace(seed=3)) == metrics


@pytest.mark.slow
def test_batches_do_not_change_the_reports(params):
    trained = load_trained(VARIANT, DATASET)
    ids = trained.images.image_ids[:7]
    for choice in ({}, {"num_beams": 2}):
        one, three = (params.write_reports.replace(batch_size=size, **choice) for size in (1, 3))
        assert trained.generate_reports(ids, one, 0) == trained.generate_reports(ids, three, 0)


@pytest.mark.slow
def test_a_seeded_sample_of_the_test_split(params, monkeypatch, shared_java):
    monkeypatch.setattr(stage, "load_trained", writes(report_of))

    def written(seed: int) -> list[str]:
        chosen = params.write_reports.replace(max_reports=3)
        metrics = run_write_reports(params.replace(write_reports=chosen, seed=seed))
        assert metrics["n_written"] == metrics["bleu_4_n"] == 3
        return pl.read_parquet(PREDICTIONS)["image_id"].to_list()

    assert written(0) == written(0) == sorted(written(0))
    assert len({tuple(written(seed)) for seed in range(4)}) > 1


@pytest.mark.slow
def test_examples_are_rows_of_the_predictions(params, monkeypatch, shared_java):
    monkeypatch.setattr(stage, "load_trained", writes(lambda number: f"No edema, image {number}."))
    monkeypatch.setattr(stage, "EXAMPLES", 3)

    def shown(seed: int) -> list[str]:
        run = Noting(f"write_reports@{VARIANT}-{DATASET}", "results/metrics")
        write_reports(params.replace(seed=seed), run, VARIANT, DATASET)
        assert run.artifacts == [PREDICTIONS, PREDICTIONS.replace("predictions.parquet", "examples.md")]
        title, *examples = Path(run.artifacts[1]).read_text().strip().split("\n\n## ")
        assert title == f"# What {VARIANT} writes for test images of {DATASET}" and len(examples) == 3
        return examples

    examples = shown(0)
    assert set(examples) <= {
        f"Image {row['image_id']}, study {row['study_id']}\n\n"
        f"**reference:** {row['reference']}\n\n**written:** {row['prediction']}"
        for row in pl.read_parquet(PREDICTIONS).iter_rows(named=True)
    }
    assert shown(0) == examples != shown(1)


@pytest.mark.slow
def test_missing_java_model_or_reports_is_an_input_error(params, monkeypatch, shared_java):
    path = f"data/prepared/{DATASET}/test.parquet"
    table = pl.read_parquet(path)
    table.with_columns(report=pl.lit(None, pl.String)).write_parquet(path)
    with pytest.raises(InputError, match="none of its 8 images can be used"):
        run_write_reports(params)
    table.write_parquet(path)
    shutil.rmtree("models/full")
    with pytest.raises(InputError, match="run pretrain@full first"):
        run_write_reports(params)

    def no_java():
        raise InputError("METEOR needs Java")

    monkeypatch.setattr(stage, "Meteor", Meteor)
    monkeypatch.setattr("medunifier.metrics.meteor.find_java", no_java)
    with pytest.raises(InputError, match="METEOR needs Java"):
        run_write_reports(params)


@pytest.mark.slow
def test_empty_predictions_score_0(params, monkeypatch, shared_java):
    monkeypatch.setattr(stage, "load_trained", writes(lambda number: ""))
    metrics = run_write_reports(params)
    assert pl.read_parquet(PREDICTIONS)["prediction"].to_list() == [""] * 8
    assert metrics["release_bleu_1"] == metrics["bleu_4"] == metrics["release_rouge_l"] == 0
    assert np.isfinite(list(metrics.values())).all()
