"""A map over many items by several processes, whose results do not depend on how many there are."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait

from stages.errors import InputError

_CHUNK = 16  # items handed over at once


@contextmanager
def parallel_map(workers: int) -> Iterator[Callable[[Callable, Iterable], Iterator]]:
    """Yield a `map` of one iterable that keeps its order; with one worker, the plain one.

    Raises InputError when the system kills a worker.
    """
    if workers == 1:
        yield map
        return
    # Fresh processes: a fork would copy locks that threads of polars may hold.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield lambda function, items: pool.map(function, items, chunksize=_CHUNK)
    except BrokenProcessPool as error:
        raise InputError(
            f"one of {workers} decoding processes was killed, most likely for lack of memory; "
            "give the job more memory or fewer cores"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let this process end when its parent does, even by kill -9; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
