"""Codebook use against scipy."""

import numpy as np
import pytest
from scipy.stats import entropy

from medunifier.metrics.codebooks import codebook_use


def test_codebook_use_equals_scipy():
    codes = np.random.default_rng(0).integers(0, 50, (30, 64)) // 2 * 2
    use = codebook_use(codes, 64)
    assert use["entropy_bits"] == pytest.approx(entropy(np.bincount(codes.ravel()), base=2))
    assert use["used_fraction"] == pytest.approx(25 / 64)
