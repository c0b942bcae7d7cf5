"""Rankings against a full sort, average precision against worked examples, chance against enumeration."""

import tracemalloc
from itertools import permutations

import numpy as np
import pytest

from medunifier.metrics import retrieval
from medunifier.metrics.retrieval import (
    average_precision,
    average_precision_authors,
    chance_average_precision,
    chance_average_precision_authors,
    chance_recall,
    rank_images,
    rank_texts,
    recall,
)


def embeddings(n: int, m: int, queries: int = 3, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, queries, width)).astype(np.float32)
    texts = rng.normal(size=(m, width)).astype(np.float32)
    return images / np.linalg.norm(images, axis=-1, keepdims=True), texts / np.linalg.norm(
        texts, axis=-1, keepdims=True
    )


def slow_ranking(scores: np.ndarray, k: int) -> list[list[int]]:
    return [sorted(range(len(row)), key=lambda j: (-row[j], j))[:k] for row in scores]


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [(1, 1), (7, 3), (4, 50), (512, 2048)])
def test_rankings_equal_a_full_sort_whatever_the_blocks(monkeypatch, blocks):
    monkeypatch.setattr(retrieval, "_IMAGES", blocks[0])
    monkeypatch.setattr(retrieval, "_TEXTS", blocks[1])
    images, texts = embeddings(23, 31)
    texts[10:20] = texts[:10]  # ties
    images[5] = images[4]
    scores = np.array(
        [[max(np.dot(query, text) for query in image) for text in texts] for image in images]
    ).round(6)
    for k in (1, 4, 100):
        ids, values = rank_texts(images, texts, k)
        assert ids.tolist() == slow_ranking(scores, k)
        assert values == pytest.approx(np.take_along_axis(scores, ids, 1), abs=2e-6)
        ids, values = rank_images(images, texts, k)
        assert ids.tolist() == slow_ranking(scores.T, k)
        assert values == pytest.approx(np.take_along_axis(scores.T, ids, 1), abs=2e-6)
        (of_images, _), (of_texts, _) = retrieval.rank_both(images, texts, k)
        assert of_images.tolist() == slow_ranking(scores, k) and np.array_equal(of_texts, ids)


def test_only_the_first_k_are_re_ranked():
    ranked = np.array([[4, 2, 7, 1], [0, 1, 2, 3]])
    scores = np.array([[0.4, 0.3, 0.2, 0.1], [0.5, 0.5, 0.5, 0.5]])
    again, total = retrieval.rerank(ranked, scores, np.array([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0]]))
    assert again.tolist() == [[2, 7, 4, 1], [0, 1, 2, 3]]
    assert total == pytest.approx(np.array([[2.3, 1.2, 0.4, 0.1], [1.5, 1.5, 1.5, 0.5]]))


def test_equal_similarities_everywhere_give_the_first_candidates():
    images, texts = np.ones((4, 2, 3), np.float32), np.ones((9, 3), np.float32)
    assert rank_texts(images, texts, 3)[0].tolist() == [[0, 1, 2]] * 4


def test_memory_does_not_grow_with_the_square_of_the_data(monkeypatch):
    monkeypatch.setattr(retrieval, "_IMAGES", 100)
    monkeypatch.setattr(retrieval, "_TEXTS", 100)
    images, texts = embeddings(2000, 2000, queries=2, width=4)
    tracemalloc.start()
    rank_texts(images, texts, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * 2000 * 4 / 8  # the matrix of similarities takes 16 MB


@pytest.mark.parametrize(
    ("hits", "release", "textbook"),
    [
        ([1, 0, 0, 0, 0], 1.00, 0.20),
        ([0, 1, 1, 1, 1], 0.679, 0.543),
        ([0, 0, 0, 0, 0], 0, 0),
        ([1] * 5, 1, 1),
    ],
)
def test_worked_examples_with_200_relevant_items(hits, release, textbook):
    relevant = np.array([hits + [1] * 5], bool)  # what comes after rank 5 does not count
    assert average_precision_authors(relevant, 5)[0] == pytest.approx(release, abs=5e-4)
    assert average_precision(relevant, np.array([200]), 5)[0] == pytest.approx(textbook, abs=5e-4)


def test_fewer_relevant_items_than_k():
    relevant = np.array([[True, False, True, False, False]])
    assert average_precision(relevant, np.array([2]), 5)[0] == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(relevant, np.array([2]), 1)[0] == 1


def test_recall_asks_for_one_hit():
    relevant = np.array([[False, True, True], [False, False, False]])
    assert recall(relevant, 1).tolist() == [0, 0]
    assert recall(relevant, 2).tolist() == [1, 0]


def test_average_precision_of_a_whole_ranking_is_scikit_learns():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    relevant = rng.random((20, 12)) < 0.4
    relevant[:, 0] |= ~relevant.any(1)
    scores = np.arange(12, 0, -1)
    expected = [average_precision_score(row, scores) for row in relevant]
    assert average_precision(relevant, relevant.sum(1), 12) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 3, 8, 11])
def test_average_precision_of_the_first_k_is_scikit_learns(k):
    """Its AP of the first K divides by the hits among them, as the release does; the textbook by min(K, R)."""
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(k)
    relevant = rng.random((40, 12)) < 0.3
    relevant[:, -1] |= ~relevant.any(1)
    hits, scores = relevant[:, :k].sum(1), np.arange(12, 0, -1)[:k]
    cut = np.array([average_precision_score(row[:k], scores) if row[:k].any() else 0.0 for row in relevant])
    assert average_precision_authors(relevant, k) == pytest.approx(cut)
    textbook = cut * hits / np.minimum(k, relevant.sum(1))
    assert average_precision(relevant, relevant.sum(1), k) == pytest.approx(textbook)


@pytest.mark.parametrize(("relevant", "candidates"), [(1, 1), (1, 6), (2, 6), (3, 6), (6, 6)])
@pytest.mark.parametrize("k", [1, 2, 4, 6, 9])
def test_chance_equals_the_mean_over_all_rankings(relevant, candidates, k):
    every = np.array(list(permutations([1] * relevant + [0] * (candidates - relevant))), bool)
    assert chance_average_precision(relevant, candidates, k) == pytest.approx(
        average_precision(every, np.full(len(every), relevant), k).mean()
    )
    assert chance_average_precision_authors(relevant, candidates, k) == pytest.approx(
        average_precision_authors(every, k).mean()
    )
    assert chance_recall(relevant, candidates, k) == pytest.approx(recall(every, k).mean())


@pytest.mark.parametrize(("k", "release", "textbook"), [(1, 20, 20), (5, 35.8, 11.6), (10, 35.0, 8.7)])
def test_chance_on_five_classes_of_200(k, release, textbook):
    """The simulated values of reference/datasets.md; a simulation of 1000 queries is off by up to 1."""
    assert 100 * chance_average_precision_authors(200, 1000, k) == pytest.approx(release, abs=1)
    assert 100 * chance_average_precision(200, 1000, k) == pytest.approx(textbook, abs=0.5)


def test_chance_equals_monte_carlo():
    """20 000 random queries for one of five classes of 200 items: within 4 standard errors."""
    rng = np.random.default_rng(0)
    hits = rng.hypergeometric(200, 800, 10, size=20_000)  # relevant among the first 10 ...
    relevant = rng.permuted(np.arange(10) < hits[:, None], axis=1)  # ... anywhere among them
    for k in (1, 5, 10):
        for found, chance in (
            (average_precision_authors(relevant, k), chance_average_precision_authors(200, 1000, k)),
            (average_precision(relevant, np.full(20_000, 200), k), chance_average_precision(200, 1000, k)),
            (recall(relevant, k), chance_recall(200, 1000, k)),
        ):
            assert found.mean() == pytest.approx(chance, abs=4 * found.std() / 20_000**0.5)
