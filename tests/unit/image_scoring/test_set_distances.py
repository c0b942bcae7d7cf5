"""Scores between sets: against slow definitions and known cases."""

import numpy as np
import pytest

from medunifier.image_scoring.set_distances import kernel_distance, nearest, precision_recall


def points(n: int, seed: int, shift: float = 0.0, width: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, width)).astype(np.float32)


def test_precision_and_recall_by_their_definition():
    generated, real = points(40, 0, 0.5), points(60, 1)

    def covered(items, centres):
        distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        radius = np.sort(distances, axis=1)[:, 3]  # place 0 is the item itself
        return np.mean([(np.linalg.norm(centres - item, axis=1) <= radius).any() for item in items])

    assert precision_recall(generated, real) == pytest.approx(
        (covered(generated, real), covered(real, generated))
    )


def test_precision_and_recall_of_clear_cases():
    real = points(50, 0)
    assert precision_recall(real.copy(), real) == (1.0, 1.0)
    assert precision_recall(real + 100, real) == (0.0, 0.0)
    precision, recall = precision_recall(np.repeat(real[:1], 50, 0) + points(50, 1) * 1e-3, real)
    assert precision == 1.0 and recall < 0.2  # copies of one image


def test_kernel_distance_by_its_definition():
    a, b = points(20, 0).astype(np.float64), points(30, 1, 0.3).astype(np.float64)

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    def unbiased(a, b):
        m = len(a)
        within = sum(kernel(s[i], s[j]) for s in (a, b) for i in range(m) for j in range(m) if i != j)
        return within / (m * (m - 1)) - 2 * np.mean([[kernel(x, y) for y in b] for x in a])

    assert kernel_distance(a, b[:20]) == pytest.approx(unbiased(a, b[:20]))
    assert kernel_distance(a, b) == pytest.approx(unbiased(a, b), abs=0.5)  # the mean over subsets of 20
    assert kernel_distance(a, b) == kernel_distance(a, b)


def test_kernel_distance_does_not_grow_for_small_sets():
    small = [kernel_distance(points(10, seed), points(10, 100 + seed)) for seed in range(200)]
    assert np.mean(small) == pytest.approx(0, abs=3 * np.std(small) / 200**0.5)
    assert kernel_distance(points(500, 0), points(500, 1, 1.0)) > 1


def test_nearest_over_batches():
    queries, candidates = points(9, 0, width=16), points(50, 1, width=16)
    candidates[33] = queries[4]
    distances, numbers = nearest(queries, [candidates[:20], candidates[20:45], candidates[45:]])
    every = np.sqrt(((queries[:, None] - candidates[None]) ** 2).mean(-1))
    assert (numbers == every.argmin(1)).all() and numbers[4] == 33
    assert distances == pytest.approx(every.min(1), abs=1e-3)
