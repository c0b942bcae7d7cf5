"""The stage write_reports: a model that generates the references scores 100, baselines are what they say."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from medunifier.data.tokenizer import decode
from medunifier.evaluation.loading import load_trained
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap
from medunifier.metrics.meteor import Meteor
from medunifier.metrics.text import bleu, bleu_statistics, cider, r2gen_protocol, report_protocol
from medunifier.report.differences import OF_SUMS, compare
from medunifier.results.item_scores import read_items
from medunifier.runtime.errors import InputError
from medunifier.tracking import LocalRun
from stages import write_reports as stage
from stages.write_reports import write_reports
from tests.support import radeval_stub
from tests.support.recording_run import Noting
from tests.support.trained_project import DATASET, SPLITS, VARIANT, make_project, report_of, with_answers

PREDICTIONS = f"results/reports/{VARIANT}-{DATASET}/predictions.parquet"


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def java():
    """One Java for all tests: loading its dictionaries takes seconds, for which tests that use it are marked slow."""
    with Meteor() as running:
        yield running


@pytest.fixture
def shared_java(java, monkeypatch):
    class Borrowed:
        def __enter__(self):
            return java

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(stage, "Meteor", Borrowed)


def run_write_reports(params) -> dict[str, float]:
    run = LocalRun(f"write_reports@{VARIANT}-{DATASET}", "results/metrics")
    write_reports(params, run, VARIANT, DATASET)
    return json.loads(run.metrics_path.read_text())


def writes(text_of):
    """A stand-in for `load_trained`: a model that writes `text_of(number)` about an image."""

    def load(variant, dataset):
        trained = load_trained(variant, dataset)
        embed = {"encode_image": trained.model.encode_image, "encode_text": trained.model.encode_text}
        answer = with_answers(
            trained,
            generate=lambda numbers: trained.tokens([text_of(n) for n in numbers])[0][:, 1:],
        )
        for name, function in embed.items():
            setattr(answer.model, name, function)
        return answer

    return load


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


@pytest.fixture
def clinical(params, monkeypatch):
    """Parameters that name clinical scorers, and a stand-in for radeval in which RadGraph's weights are absent."""
    for name, module in radeval_stub.modules(absent=("radgraph",)).items():
        monkeypatch.setitem(sys.modules, name, module)
    names = ("radgraph", "f1chexbert", "radcliq", "green")
    return params.replace(write_reports=params.write_reports.replace(clinical=names))


@pytest.mark.slow
def test_clinical_scores_have_intervals_baselines_and_items_as_bleu_has(
    clinical, monkeypatch, shared_java, capsys
):
    monkeypatch.setattr(stage, "load_trained", writes(report_of))
    metrics = run_write_reports(clinical)
    output = capsys.readouterr().out
    left_out = [line for line in output.splitlines() if "is left out" in line]
    assert len(left_out) == 1 and "warning: radgraph is left out" in left_out[0]
    assert left_out[0].endswith(f"dvc repro --force --single-item write_reports@{VARIANT}-{DATASET}")
    assert output.index(left_out[0]) < output.index("generate 8 reports"), "told before the work"
    assert not any("radgraph" in name for name in metrics)

    table, own = pl.read_parquet(PREDICTIONS), radeval_stub.score_of
    for metric, scale in (("green", 100), ("radcliq_v1", 1)):
        for system, column in (("", "prediction"), ("constant_", "constant"), ("nearest_", "nearest")):
            expected = [own(metric, *row) for row in table.select("reference", column).iter_rows()]
            assert metrics[system + metric] == pytest.approx(scale * np.mean(expected))
            assert (
                metrics[f"{system}{metric}_ci_low"]
                <= metrics[system + metric]
                <= metrics[f"{system}{metric}_ci_high"]
            )
            assert metrics[f"{system}{metric}_n"] == 8
        assert metrics[f"{metric}_gain"] == pytest.approx(metrics[metric] - metrics[f"constant_{metric}"])
        assert metrics[f"{metric}_gain_ci_low"] < metrics[f"{metric}_gain_ci_high"]
    assert metrics["chexbert_f1_micro"] == metrics["chexbert_f1_micro_5"] == 100, "copies but for their case"
    assert metrics["constant_chexbert_f1_micro"] < 100

    items = read_items(f"write_reports@{VARIANT}-{DATASET}")
    assert items.filter(metric="green")["value"].to_list() == [1.0] * 8
    assert items.filter(metric="chexbert_f1_macro")["statistics"].list.len().to_list() == [3 * 14] * 8
    other = items.with_columns(value=pl.col("value") - 0.25)
    found = dict(compare(items, other, "write_reports", 0))
    assert found["green"][0] == pytest.approx(25) and found["radcliq_v1"][0] == pytest.approx(0.25)
    assert found["chexbert_f1_macro"][0] == 0, "computed from the counts"


@pytest.mark.slow
def test_a_scorer_that_fails_leaves_the_other_metrics(clinical, monkeypatch, shared_java, capsys):
    def fails(self, refs, hyps):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sys.modules["radeval"].RadEval, "__call__", fails)
    monkeypatch.setattr(stage, "load_trained", writes(report_of))
    metrics = run_write_reports(clinical)
    assert "green is left out: it failed on these reports (RuntimeError: out of memory)" in capsys.readouterr().out
    assert "green" not in metrics and metrics["chexbert_f1_micro"] == 100 and metrics["bleu_4"] == 100


@pytest.mark.slow
def test_each_study_counts_once_with_its_first_frontal_image(params, monkeypatch, shared_java):
    """Three images of study a, of which the second is frontal, two of b without a frontal one, three studies of one."""
    path = f"data/prepared/{DATASET}/test.parquet"
    table = pl.read_parquet(path).with_columns(
        study_id=pl.Series([*"aaabb", "c", "d", "e"]),
        view=pl.Series(["LATERAL", "PA", "AP", "LL", None, "PA", "PA", "PA"]),
        report=pl.Series([report_of(n) for n in (16, 16, 16, 18, 18, 20, 22, 23)]),
    )
    table.write_parquet(path)
    monkeypatch.setattr(stage, "load_trained", writes(lambda n: report_of(n + n % 3)))
    metrics = run_write_reports(params)
    rows = [1, 3, 5, 6, 7]
    assert metrics["n_studies"] == metrics["study_bleu_4_n"] == 5 and metrics["bleu_4_n"] == 8
    written = pl.read_parquet(PREDICTIONS)[rows]
    for system, column in (("", "prediction"), ("constant_", "constant"), ("nearest_", "nearest")):
        cleaned = report_protocol(written["reference"].to_list(), written[column].to_list())
        assert metrics[f"{system}study_bleu_4"] == pytest.approx(
            100 * bleu(bleu_statistics(*cleaned).sum(0))[3]
        )
        assert metrics[f"{system}study_cider"] == pytest.approx(100 * cider(*cleaned).mean())
    assert metrics["study_bleu_4"] != pytest.approx(metrics["bleu_4"])


@pytest.mark.slow
def test_studies_of_one_image_have_no_metrics_of_their_own(params, monkeypatch, shared_java):
    monkeypatch.setattr(stage, "load_trained", writes(report_of))
    metrics = run_write_reports(params)
    assert not any("study" in name or "studies" in name or "r2gen" in name for name in metrics)


@pytest.mark.slow
def test_r2gens_protocol_is_an_option(params, monkeypatch, shared_java):
    """Each zone and size stands in two training reports and more, each patient's number in two."""
    monkeypatch.setattr(stage, "load_trained", writes(report_of))
    settings = params.write_reports.replace(r2gen_min_count=3, r2gen_max_ids=7)
    metrics = run_write_reports(params.replace(write_reports=settings))
    written = pl.read_parquet(PREDICTIONS)
    training = [report_of(n) for n in range(12)]
    cleaned = r2gen_protocol(training, 3, 7)(written["reference"], written["prediction"])
    expected = 100 * bleu(bleu_statistics(*cleaned).sum(0))
    assert [metrics[f"r2gen_bleu_{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected)
    assert metrics["bleu_1"] == 100 > metrics["r2gen_bleu_1"], "a copy of seven words against six"


@pytest.mark.slow
def test_shares_of_distinct_reports_and_a_warning_when_they_collapse(params, monkeypatch, shared_java, capsys):
    monkeypatch.setattr(stage, "load_trained", writes(report_of))
    metrics = run_write_reports(params)
    assert (metrics["n_distinct"], metrics["distinct_share"], metrics["commonest_share"]) == (8, 100, 12.5)
    assert metrics["reference_n_distinct"] == 8 and metrics["constant_n_distinct"] == 1
    assert metrics["constant_commonest_share"] == 100
    assert "collapsed" not in capsys.readouterr().out
    monkeypatch.setattr(stage, "load_trained", writes(lambda n: "No edema."))
    assert run_write_reports(params)["distinct_share"] == 12.5
    assert "warning: the generated reports have collapsed: 1 of 8 are distinct" in capsys.readouterr().out


@pytest.mark.slow
def test_cider_of_one_report_is_left_out_with_a_reason(params, monkeypatch, shared_java, capsys):
    monkeypatch.setattr(stage, "load_trained", writes(report_of))
    one = params.replace(write_reports=params.write_reports.replace(max_reports=1))
    metrics = run_write_reports(one)
    assert not any("cider" in name for name in metrics) and metrics["bleu_4"] == 100
    assert "cider is left out: there is one report alone" in capsys.readouterr().out
    assert "cider" not in read_items(f"write_reports@{VARIANT}-{DATASET}")["metric"].to_list()


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
