"""Exact retrieval, 20 000 images x 20 000 texts, both directions: `python -m benchmarks.retrieval`.

The reference is the time of the matrix products alone, measured in the same run on one block and scaled up. No exact
method without bounds on the embeddings can be faster. Embeddings are random unit vectors. Writes
benchmarks/results/retrieval-DATE.json.
"""

import argparse
import json
import os
import resource
import time

import numpy as np

from benchmarks import records
from medunifier.metrics.retrieval import rank_both


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return L2-normalised random vectors."""
    x = rng.standard_normal(shape, dtype=np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000, help="images, and texts")
    parser.add_argument("--queries", type=int, default=32, help="embeddings of an image")
    parser.add_argument("--width", type=int, default=256, help="of an embedding")
    settings = parser.parse_args()
    rng = np.random.default_rng(0)
    images, texts = (
        unit(rng, settings.n, settings.queries, settings.width),
        unit(rng, settings.n, settings.width),
    )

    block = images[:512, 0], np.ascontiguousarray(texts[:2048].T)
    _ = block[0] @ block[1]
    start, repeats = time.perf_counter(), 40
    for _ in range(repeats):
        _ = block[0] @ block[1]
    speed = repeats * 2 * 512 * len(texts[:2048]) * settings.width / (time.perf_counter() - start)
    products = 2 * settings.n**2 * settings.queries * settings.width / speed

    start = time.perf_counter()
    (ranked, _), _ = rank_both(images, texts, 10)
    seconds = time.perf_counter() - start
    for row in rng.choice(settings.n, 20, replace=False):  # exact: against the plain definition
        truth = (images[row] @ texts.T).max(0)
        assert np.allclose(truth[ranked[row]], np.sort(truth)[::-1][:10], atol=2e-6)
    result = {
        **vars(settings),
        "seconds": round(seconds, 1),
        "products_alone_seconds": round(products, 1),
        "ratio": round(seconds / products, 2),
        "gflops": round(speed / 1e9, 1),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
    }
    name = (
        "retrieval"
        if settings.queries == 32 and settings.width == 256
        else f"retrieval-{settings.queries}x{settings.width}"
    )
    records.save(name, "python -m benchmarks.retrieval", result, packages=("numpy",))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
