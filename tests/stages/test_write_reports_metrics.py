"""Metrics of the stage write_reports beside text overlap by image: clinical, by study, R2Gen's, distinct reports."""

import sys

import numpy as np
import polars as pl
import pytest

from medunifier.metrics.meteor import meteor
from medunifier.metrics.text import bleu, bleu_statistics, cider, r2gen_protocol, report_protocol, rouge_l
from medunifier.report.differences import compare
from medunifier.results.item_scores import read_items
from stages import write_reports as stage
from tests.support import radeval_stub
from tests.support.report_stage import PREDICTIONS, run_write_reports, writes
from tests.support.trained_project import DATASET, VARIANT, make_project, report_of


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path)


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
    assert (
        "green is left out: it failed on these reports (RuntimeError: out of memory)"
        in capsys.readouterr().out
    )
    assert "green" not in metrics and metrics["chexbert_f1_micro"] == 100 and metrics["bleu_4"] == 100


@pytest.mark.slow
def test_each_study_counts_once_with_its_first_frontal_image(params, monkeypatch, java, shared_java):
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
        assert metrics[f"{system}study_rouge_l"] == pytest.approx(100 * rouge_l(*cleaned).mean())
        sums = java.statistics(*cleaned).sum(0)
        assert metrics[f"{system}study_meteor"] == pytest.approx(100 * meteor(sums))
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
def test_shares_of_distinct_reports_and_a_warning_when_they_collapse(
    params, monkeypatch, shared_java, capsys
):
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
