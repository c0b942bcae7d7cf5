"""How the codes of a codebook are used."""

import numpy as np


def codebook_use(codes: np.ndarray, size: int) -> dict[str, float]:
    """Measure how a codebook is used.

    Args:
        codes: Code numbers, integers of any shape.
        size: Number of entries of the codebook.

    Returns:
        `entropy_bits`: entropy of single codes. `perplexity`: 2 to that power, the effective number of entries.
        `used_fraction`: share of the entries that occur.
    """
    counts = np.bincount(codes.ravel(), minlength=size)
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * np.log2(shares)).sum())
    return {"perplexity": 2**entropy, "used_fraction": float((counts > 0).mean()), "entropy_bits": entropy}
