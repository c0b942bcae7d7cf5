"""Metrics of generated reports: the gain over another system, and F1 of mentioned findings by scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.metrics.report_scores import TextScores, finding_intervals
from medunifier.metrics.text import bleu, bleu_statistics

OPTIONS = BootstrapOptions(100, 0)
REFERENCES = [
    ["the heart is large and the lungs are clear ."],
    ["no effusion is seen on the left side ."],
    ["there is mild edema in both lungs ."],
]


class NoJava:
    def statistics(self, references, predictions):
        return np.ones((len(predictions), 23))


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
    found = finding_intervals(reports, findings, labels.astype(float), OPTIONS)
    for name in ("micro", "macro"):
        expected = f1_score(labels, mentioned, average=name, zero_division=0)
        assert found[f"findings_f1_{name}"].value == pytest.approx(expected)
