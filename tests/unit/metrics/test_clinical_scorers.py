"""Clinical scorers: the package itself where it is installed, and a stand-in of its form where it is not."""

import inspect
import sys
from importlib.util import find_spec
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.metrics import classification_report

from medunifier.metrics import clinical_scorers
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means
from medunifier.metrics.clinical_scorers import (
    CORPUS,
    SCORERS,
    ItemScores,
    load_scorers,
    main,
    scale_of,
    score_reports,
    titles,
)
from medunifier.runtime.errors import InputError
from medunifier.runtime.sections.evaluation import ClinicalName
from tests.support import radeval_stub
from tests.support.paths import REPO

OPTIONS = BootstrapOptions(50, 0)
REFERENCES = ["Mild edema.", "No effusion.", "Large heart.", "Clear lungs."]
PREDICTIONS = ["Mild edema.", "Small effusion.", "Heart is large.", "Lungs are clear."]

installed = pytest.mark.skipif(
    find_spec("radeval") is None, reason="radeval is not installed (`make clinical` installs it)"
)


@pytest.fixture
def stub(monkeypatch):
    def install(absent: tuple[str, ...] = ()):
        for name, module in radeval_stub.modules(absent).items():
            monkeypatch.setitem(sys.modules, name, module)
        return sys.modules["radeval"].RadEval

    return install


def test_the_parameter_allows_the_scorers_that_there_are():
    assert list(get_args(ClinicalName)) == list(SCORERS)
    metrics = [metric for scorer in SCORERS.values() for metric in scorer.labels]
    assert len(set(metrics)) == len(metrics)
    of_corpus = [metric for metric in CORPUS if metric.startswith("chexbert")]
    for name, scorer in SCORERS.items():
        assert list(scorer.labels) == list(scorer.keys or of_corpus), name


def test_each_metric_tells_which_direction_is_better():
    found = titles()
    assert found["radcliq_v1"] == "RadCliQ-v1, no unit, lower is better" and scale_of("radcliq_v1") == 1
    others = [title for metric, title in found.items() if metric != "radcliq_v1"]
    assert all(title.endswith(", %, higher is better") for title in others)
    assert scale_of("bleu_4") == scale_of("radgraph_partial") == 100
    glossary = (REPO / "docs/evaluation.md").read_text()
    for metric in found:
        assert f"`{metric}`" in glossary, metric


def test_no_scorer_is_loaded_or_imported_unless_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "radeval", None)  # importing it raises ImportError
    assert load_scorers([], "auto", 1) == ({}, [])
    with pytest.raises(InputError, match=r"clinical names green, radgraph, but .* `make clinical`"):
        load_scorers(["green", "radgraph"], "auto", 1)


def test_scores_of_every_scorer_are_the_packages(stub):
    made = stub().made
    scorers, left_out = load_scorers([*SCORERS], "cpu", 7)
    assert not left_out and list(scorers) == list(SCORERS)
    assert {getattr(each, f"{each.name}_scorer").batch_size for each in made} == {7}
    for name, scorer in scorers.items():
        scores = score_reports(name, scorer, REFERENCES, PREDICTIONS)
        assert [each.metric for each in scores] == list(SCORERS[name].labels)
        for each in scores:
            assert each.values.shape == (4,)
            if name != "f1chexbert":
                key = SCORERS[name].keys[each.metric]
                expected = [
                    radeval_stub.score_of(key, *pair) for pair in zip(REFERENCES, PREDICTIONS, strict=True)
                ]
                assert each.values == pytest.approx(expected)
                assert each.interval(OPTIONS) == bootstrap_means(each.values[:, None], OPTIONS)[0]


def test_f1_of_chexbert_is_scikit_learns_report(stub):
    stub()
    texts = [f"report {n}" for n in range(40)]
    others = [f"report {n + n % 3}" for n in range(40)]
    scorers, _ = load_scorers(["f1chexbert"], "cpu", 5)
    scorer = scorers["f1chexbert"]
    assert (scorer.device, scorer.batch_size) == ("cpu", 5)
    truth, found = np.array(scorer.get_labels(texts)), np.array(scorer.get_labels(others))
    truth[:, 3] = found[:, 3] = 0  # a finding that is nowhere counts as 0 in the macro mean
    scorer.get_labels = lambda reports: (truth if reports == texts else found).tolist()
    five = [1, 4, 5, 7, 9]
    for each in score_reports("f1chexbert", scorer, texts, others):
        kind, columns = each.metric.split("_")[2], five if each.metric.endswith("_5") else [*range(14)]
        report = classification_report(
            truth[:, columns], found[:, columns], output_dict=True, zero_division=0
        )
        assert each.interval(OPTIONS).value == pytest.approx(report[f"{kind} avg"]["f1-score"])
        assert each.counts is not None and each.values == pytest.approx(CORPUS[each.metric](each.counts))


def test_gain_over_another_system_is_paired():
    rng = np.random.default_rng(0)
    values, clusters = rng.random(30), [n // 2 for n in range(30)]
    better, options = ItemScores("green", values + 0.1), BootstrapOptions(200, 0, clusters)
    gain = better.interval(options, minus=ItemScores("green", values))
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))
    counts = rng.integers(0, 3, (30, 15)).astype(float)
    one, two = (ItemScores("chexbert_f1_micro_5", values, c) for c in (counts, counts[::-1]))
    gain = one.interval(options, minus=two)
    assert gain.value == pytest.approx(one.interval(options).value - two.interval(options).value)
    assert gain.low < gain.value < gain.high and gain.n == 30


def test_a_scorer_without_weights_is_left_out_with_what_to_put_where(stub):
    stub(absent=("radgraph",))
    scorers, (line,) = load_scorers(["radgraph", "green"], "auto", 1)
    assert list(scorers) == ["green"] and "\n" not in line
    assert line.startswith(
        "radgraph is left out: We couldn't connect to the hub to load the files. It needs "
    )
    assert "~/.cache/radgraph/0.1.18/radgraph-xl" in line
    assert "python -m medunifier.metrics.clinical_scorers radgraph fetches it" in line


def test_scores_that_are_no_numbers_are_refused(stub):
    stub()
    for wrong in ([0.5, np.nan], [0.5]):
        with pytest.raises(ValueError, match="no number for some of the 2 reports"):
            score_reports("green", lambda refs, hyps, wrong=wrong: {"green": wrong}, ["a", "b"], ["a", "b"])


def test_the_cpu_is_taken_where_asked_for_although_there_is_a_gpu(stub, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    radeval = stub()
    monkeypatch.setattr(radeval, "__init__", lambda self, **_: seen.append(torch.cuda.is_available()))
    radeval.green_scorer = None
    for device in ("cpu", "auto", "cuda"):
        assert list(load_scorers(["green"], device, 1)[0]) == ["green"]
        assert torch.cuda.is_available()
    assert seen == [False, True, True]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="clinical_device: cuda, but torch sees no GPU"):
        load_scorers(["green"], "cuda", 1)


def test_the_command_fetches_and_tells_what_is_ready(stub, capsys):
    stub(absent=("radgraph",))
    with pytest.raises(SystemExit, match="radgraph is left out"):
        main(["green", "radgraph"])
    assert capsys.readouterr().out == "green is ready\n"
    with pytest.raises(SystemExit, match=r"usage: .* names: rouge, bertscore"):
        main(["crimson"])


@installed
@pytest.mark.slow
class TestThePackage:
    """The package itself: what needs no weights runs; the form of the rest is that of the stand-in."""

    def test_rouge_of_single_reports_averages_to_the_packages_own_value(self):
        scorers, left_out = load_scorers(["rouge"], "cpu", 1)
        assert not left_out
        from radeval import RadEval

        own = RadEval(metrics=["rouge"], show_progress=False)(refs=REFERENCES, hyps=PREDICTIONS)
        for each in score_reports("rouge", scorers["rouge"], REFERENCES, PREDICTIONS):
            key = SCORERS["rouge"].keys[each.metric]
            assert each.interval(OPTIONS).value == pytest.approx(own[key], abs=5e-5)

    def test_keys_are_those_of_the_package(self):
        clinical_scorers._import_radeval(["green"])
        from radeval.metrics._registry import METRIC_REGISTRY, get_metric_class

        assert set(SCORERS) <= set(METRIC_REGISTRY)
        for name in set(SCORERS) - {"f1chexbert", "temporal", "ratescore"}:  # these import weights or spaCy
            metric = get_metric_class(name)
            assert metric.metric_keys(object.__new__(metric)) == radeval_stub.PER_SAMPLE_KEYS[name]
            assert list(SCORERS[name].keys.values()) == radeval_stub.PER_SAMPLE_KEYS[name]

    def test_chexbert_is_scored_as_the_package_does(self, monkeypatch):
        """With what radeval 2.2.1 expects of a private function of scikit-learn 1.8, which 1.9 no longer returns."""
        clinical_scorers._import_radeval(["f1chexbert"])

        def targets(truth, found):
            return "multilabel-indicator", csr_matrix(truth), csr_matrix(found)

        from radeval.metrics import _chexbert_base
        from radeval.metrics.f1chexbert import F1CheXbert
        from radeval.metrics.f1chexbert.adapter import F1CheXbertMetric

        monkeypatch.setattr(_chexbert_base, "_check_targets", targets)

        assert [*F1CheXbert.CONDITION_NAMES, F1CheXbert.NO_FINDING] == radeval_stub.CHEXBERT_NAMES
        assert set(clinical_scorers.FIVE) == set(F1CheXbert.TOP5)
        assert {"device", "batch_size"} <= set(inspect.signature(F1CheXbert).parameters)

        class WithoutWeights(F1CheXbert):
            def __init__(self):
                torch.nn.Module.__init__(self)
                self._init_evaluator(model=None, tokenizer=None, device="cpu", batch_size=1)

            def get_labels(self, reports, mode="rrg", on_batch_done=None):
                return radeval_stub.F1CheXbert(device="cpu", batch_size=1).get_labels(reports)

        assert issubclass(WithoutWeights, _chexbert_base.BaseCheXbertEvaluator)
        adapter = object.__new__(F1CheXbertMetric)
        adapter._scorer = WithoutWeights()
        texts = [f"report {n}" for n in range(60)]
        others = [f"report {n + n % 3}" for n in range(60)]
        own = adapter.compute(texts, others, detailed=True)
        for each in score_reports("f1chexbert", WithoutWeights(), texts, others):
            _, _, kind, *five = each.metric.split("_")
            key = f"f1chexbert_{five[0] if five else 'all'}_{kind}_f1"
            assert each.interval(OPTIONS).value == pytest.approx(own[key])

    def test_a_single_radcliq_is_a_distance(self):
        """The package's mean is 1 / mean of these scores; weights of the parts are negative: alike texts score low."""
        clinical_scorers._import_radeval(["radcliq"])
        from radeval.metrics.RadCliQv1.radcliq import CompositeMetric

        source = inspect.getsource(CompositeMetric)
        assert "1/scores.mean(), scores" in source
        assert "-3.77083683e-01,   # radgraph weight" in source

    def test_scorers_without_weights_are_left_out(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        names = ["bertscore", "f1chexbert", "radgraph"]
        scorers, left_out = load_scorers(names, "cpu", 1)
        if scorers:
            pytest.skip("weights are here")
        assert [line.split()[0] for line in left_out] == names
        assert not any("No module named" in line for line in left_out), left_out
