"""The order in which training reads its rows, for any number of processes, and prefetching.

The order is a function of seed, epoch and step alone, so that a resumed run reads the same batches as an
uninterrupted one.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from medunifier.training.recipe import Recipe

Batch = TypeVar("Batch")


def permutation(items: int, seed: int, epoch: int, blocks: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Return the order in which an epoch reads rows 0 .. items - 1, each once.

    Args:
        items: number of rows.
        seed: of the training run.
        epoch: number of the pass over the data.
        blocks: row numbers, (k,) each, that partition all rows. Blocks then come in random order, one whole block
            after the other, with the rows of each in random order. Use it where random reads are slow (a spinning
            disk, a network): only one or two blocks are in use at a time.
    """
    rng = np.random.default_rng([seed, epoch])
    if blocks is None:
        return rng.permutation(items)
    return np.concatenate([rng.permutation(blocks[number]) for number in rng.permutation(len(blocks))])


def step_rows(
    items: int,
    recipe: Recipe,
    start: int,
    process: int,
    processes: int,
    blocks: Sequence[np.ndarray] | None = None,
) -> Iterator[np.ndarray]:
    """Yield the row numbers of each micro-batch of this process, from step `start` on.

    The data set is read as one endless sequence of permutations. Step s takes positions s * batch_size to
    (s + 1) * batch_size - 1 of it, split over processes, then over micro-batches: a process holds one stretch of the
    batch, however many micro-batches it is cut into.
    """
    permutations: dict[int, np.ndarray] = {}

    def row(position: int) -> int:
        epoch, place = divmod(position, items)
        if epoch not in permutations:
            permutations.clear()
            permutations[epoch] = permutation(items, recipe.seed, epoch, blocks)
        return permutations[epoch][place]

    share = recipe.batch_size // processes // recipe.accumulate
    for step in range(start, recipe.steps):
        for micro in range(recipe.accumulate):
            first = step * recipe.batch_size + (process * recipe.accumulate + micro) * share
            yield np.array([row(first + i) for i in range(share)])


def prefetch(load: Callable[[np.ndarray], Batch], rows: Iterator[np.ndarray]) -> Iterator[Batch]:
    """Yield load(rows) for each rows; the next batch loads in a thread while this one is used."""
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for chosen in rows:
            ready, ahead = ahead, pool.submit(load, chosen)
            if ready is not None:
                yield ready.result()
        if ahead is not None:
            yield ahead.result()


def mix(*numbers: int) -> int:
    """Return one 63-bit seed made of several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
