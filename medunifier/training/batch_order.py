"""In which order training reads its rows, on any number of processes, and reading ahead.

Nothing here remembers: every order follows from seed, epoch and step, so that a resumed run reads what the
uninterrupted one would have read.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from medunifier.training.loop import Recipe

    Batch = dict[str, torch.Tensor]


def permutation(items: int, seed: int, epoch: int, blocks: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """The order in which an epoch reads rows 0 .. items - 1, each once; it follows from seed and epoch alone.

    With `blocks` (row numbers, (k,) each, that together are all rows) block after block is read, the blocks in
    random order and the rows of each in random order: where random reads are dear, as from a spinning disk or
    over a network, no more than a block or two is in use at any time.
    """
    rng = np.random.default_rng([seed, epoch])
    if blocks is None:
        return rng.permutation(items)
    return np.concatenate([rng.permutation(blocks[number]) for number in rng.permutation(len(blocks))])


def step_rows(
    items: int,
    recipe: "Recipe",
    start: int,
    process: int,
    processes: int,
    blocks: Sequence[np.ndarray] | None = None,
) -> Iterator[np.ndarray]:
    """Row numbers of each micro-batch of this process, from step `start` on.

    The data set is read in one endless order, a new permutation after the other; step s takes the
    positions s * batch_size ... Every process and micro-batch takes its share of these.
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
            first = step * recipe.batch_size + (micro * processes + process) * share
            yield np.array([row(first + i) for i in range(share)])


def prefetch(load: Callable[[np.ndarray], "Batch"], rows: Iterator[np.ndarray]) -> "Iterator[Batch]":
    """load(rows) for each rows, the next one loading in a thread while this one is used."""
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for chosen in rows:
            ready, ahead = ahead, pool.submit(load, chosen)
            if ready is not None:
                yield ready.result()
        if ahead is not None:
            yield ahead.result()


def mix(*numbers: int) -> int:
    """One 63-bit seed out of several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
