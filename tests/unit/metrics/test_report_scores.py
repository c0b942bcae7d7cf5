"""Metrics of generated reports: the gain over another system, and F1 of mentioned findings by scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.metrics.report_scores import TextScores, Variety, finding_scores
from medunifier.metrics.text import bleu, bleu_statistics

OPTIONS = BootstrapOptions(100, 0)
REFERENCES = [
    ["the heart is large and the lungs are clear ."],
    ["no effusion is seen on the left side ."],
    ["there is mild edema in both lungs ."],
]


class NoJava:
    def statistics(self, references, predictions):
        return np.array([[float(len(text))] * 23 for text in predictions])


def scores_of(predictions: list[str]) -> TextScores:
    return TextScores.of(REFERENCES, predictions, NoJava())


def test_gain_is_the_difference_of_corpus_bleu_and_paired():
    copies = scores_of([texts[0] for texts in REFERENCES])
    constant = scores_of([REFERENCES[0][0]] * 3)
    gain = copies.bleu_4_gain(constant, OPTIONS)
    expected = 1 - bleu(bleu_statistics(REFERENCES, [REFERENCES[0][0]] * 3).sum(0))[3]
    assert gain.value == pytest.approx(expected) and gain.n == 3
    itself = copies.bleu_4_gain(copies, OPTIONS)
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)


def test_some_items_score_as_if_there_were_no_others():
    predictions, rows = [texts[0].replace("the", "a") for texts in REFERENCES], np.array([0, 2])
    references, chosen = ([texts[row] for row in rows] for texts in (REFERENCES, predictions))
    alone = TextScores.of(references, chosen, NoJava())
    found = scores_of(predictions).take(rows, references, chosen)
    for name, values in vars(alone).items():
        assert np.array_equal(getattr(found, name), values), name
    assert not np.allclose(found.cider, scores_of(predictions).cider[rows]), "words weigh by all references"
    assert scores_of(predictions).take(rows[:1], references[:1], chosen[:1]).cider is None


def test_intervals_are_those_of_the_corpus():
    predictions = [texts[0].replace("the", "a") for texts in REFERENCES]
    found = scores_of(predictions).intervals(OPTIONS)
    assert list(found) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider"]
    corpus = bleu(bleu_statistics(REFERENCES, predictions).sum(0))
    assert [found[f"bleu_{n}"].value for n in (1, 2, 3, 4)] == pytest.approx(corpus)
    assert found["bleu_1"].low < found["bleu_1"].value < found["bleu_1"].high


def test_f1_of_mentioned_findings_is_scikit_learns():
    reports = ["There is edema.", "No edema. Large effusion.", "Edema and pneumonia.", "Clear lungs."]
    findings = ("edema", "pleural_effusion", "pneumonia")
    mentioned = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]])
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]])
    found = {each.metric: each for each in finding_scores(reports, findings, labels.astype(float))}
    for name in ("micro", "macro"):
        expected = f1_score(labels, mentioned, average=name, zero_division=0)
        assert found[f"findings_f1_{name}"].interval(OPTIONS).value == pytest.approx(expected)
    assert found["findings_f1_micro"].values.tolist() == pytest.approx([1, 2 / 3, 2 / 3, 0])


def test_cider_is_left_out_where_it_means_nothing():
    one = TextScores.of(REFERENCES[:1], ["the heart is large ."], NoJava())
    equal = TextScores.of([REFERENCES[0]] * 3, ["the heart is large ."] * 3, NoJava())
    for scores in (one, equal):
        assert scores.cider is None
        found = scores.intervals(OPTIONS)
        assert list(found) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l"]
    assert scores_of(["no edema ."] * 3).cider is not None


def test_variety_counts_reports_that_differ_in_more_than_case_and_punctuation():
    found = Variety.of(["No edema.", "no edema", "Edema.", "Clear lungs."])
    assert found == Variety(reports=4, distinct=3, commonest=2)
    flat = found.flat("nearest_")
    assert flat == {
        "nearest_n_distinct": 3,
        "nearest_distinct_share": 75,
        "nearest_commonest_share": 50,
    }
    assert Variety.read(flat, "nearest_") == found
    awkward = Variety(reports=199, distinct=49, commonest=67)
    assert Variety.read(awkward.flat(""), "") == awkward


@pytest.mark.parametrize(
    ("generated", "references", "collapsed"),
    [
        (Variety(200, 49, 30), Variety(200, 160, 12), False),
        (Variety(200, 15, 30), Variety(200, 160, 12), True),  # a tenth of the references' is 16
        (Variety(200, 40, 101), Variety(200, 160, 12), True),
        (Variety(200, 40, 120), Variety(200, 160, 70), False),  # most references are one report, too
        (Variety(1, 1, 1), Variety(1, 1, 1), False),
        (Variety(50, 1, 50), Variety(50, 1, 50), False),
    ],
)
def test_a_collapse_is_measured_by_the_references(generated, references, collapsed):
    warning = generated.collapse(references)
    assert bool(warning) == collapsed
    if collapsed:
        assert f"{generated.distinct} of {generated.reports} are distinct" in warning
