"""Distances between sets, diversity, and copies of training images."""

import numpy as np
import pytest

from medunifier.image_scoring.realism import NEAREST, FeatureSpace, distances, diversity, memorisation
from medunifier.image_scoring.similarity import frechet_distance, ms_ssim, thumbnails
from medunifier.metrics.bootstrap import BootstrapOptions

OPTIONS = BootstrapOptions(100, 0)


def blobs(n, seed):
    """Smooth images, uint8 [n, 176, 176]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:176j, -1:1:176j]
    centres = rng.uniform(-0.6, 0.6, (n, 2, 1, 1))
    return (200 * np.exp(-((x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2) / 0.2)).astype(np.uint8)


def test_distances_of_a_set_to_the_reference():
    rng = np.random.default_rng(0)
    sets = {
        "reference": rng.normal(size=(60, 4)),
        "near": rng.normal(size=(40, 4)),
        "far": rng.normal(2, 1, (40, 4)),
    }
    found = distances(FeatureSpace("fd_x", "kd_x", "x"), sets, seed=0)
    assert found["fd_x_reference_n"] == 60 and found["fd_x_near_n"] == 40
    assert found["fd_x_far"] == pytest.approx(frechet_distance(sets["far"], sets["reference"]))
    assert found["fd_x_near"] < found["fd_x_far"] and found["kd_x_near"] < found["kd_x_far"]
    assert found["precision_x_near"] > 0.7 > found["precision_x_far"]
    assert not any(name.endswith("_reference") for name in found)


def test_diversity_compares_samples_of_one_prompt_alone():
    generated = blobs(6, 0)
    generated[1] = generated[0]
    rows = np.array([0, 0, 1, 1, 2, 2])
    found = diversity(generated, rows, blobs(5, 1), OPTIONS)
    expected = ms_ssim(generated[[0, 2, 4]] / 255, generated[[1, 3, 5]] / 255)
    assert expected[0] == pytest.approx(1) and found["ms_ssim_prompt"] == pytest.approx(expected.mean())
    assert found["ms_ssim_prompt_n"] == found["ms_ssim_real_n"] == 3
    assert diversity(generated[:3], np.arange(3), generated, OPTIONS) == {}


def test_copies_are_found():
    train, validate = thumbnails(blobs(300, 0), 16), thumbnails(blobs(100, 1), 16)
    new, copied = thumbnails(blobs(100, 2), 16), train[50:150] + 1e-3
    sets = {
        "validation": ([f"v{i}" for i in range(100)], validate),
        "new": ([f"n{i}" for i in range(100)], new),
        "copied": ([f"c{i}" for i in range(100)], copied),
    }
    table, metrics = memorisation(sets, ([f"t{i}" for i in range(300)], train))
    assert NEAREST.violations(table) == []
    assert metrics["nearest_copied"] == pytest.approx(0.255, abs=0.01)
    assert metrics["nearest_copied_suspicious"] == 100
    assert metrics["nearest_new_suspicious"] < 15 and "nearest_validation_suspicious" not in metrics
    assert metrics["nearest_new"] == pytest.approx(metrics["nearest_validation"], rel=0.3)
    copies = table.filter(set="copied")
    assert copies["nearest_id"].to_list() == [f"t{i}" for i in range(50, 150)]
