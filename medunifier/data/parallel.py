"""Maps over many items, by processes or threads; their results do not depend on how many there are."""

import gc
import multiprocessing
import os
import resource
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait

from medunifier.runtime.errors import InputError

_BLOCK = 4096  # items, of which the first few tell whether files come at once or have to be waited for
_TRIAL = 32
_THREADS = 16


@contextmanager
def parallel_map(workers: int, chunk: int = 16) -> Iterator[Callable[[Callable, Iterable], Iterator]]:
    """Yield a `map` of one iterable that keeps its order; with one worker, the plain one.

    `chunk` items are handed to a process at once. Raises InputError when the system kills a worker.
    """
    if workers == 1:
        yield map
        return
    with _processes(workers) as pool:
        yield lambda function, items: pool.map(function, items, chunksize=chunk)


@contextmanager
def shared_map(workers: int, function: Callable) -> Iterator[Callable[[Sequence], list]]:
    """Yield a function from items to `function` of each, in order, by this process and `workers - 1` others: for work
    that is done in seconds. The others start at once, which takes them a second; this process need not wait for them.
    Raises InputError as `parallel_map` does.
    """
    if workers == 1:
        yield lambda items: list(map(function, items))
        return
    with _processes(workers - 1) as pool:
        for _ in range(workers - 1):
            pool.submit(callable, function)  # has them import what it needs
        yield lambda items: _share(pool, workers - 1, function, items)


def _share(pool: ProcessPoolExecutor, others: int, function: Callable, items: Sequence) -> list:
    start, end = 0, len(items)  # the others begin at the start, this process at the end
    given, own, flying = [], [], []
    while start < end:
        flying = [future for future in flying if not future.done()]
        for item in items[start : min(start + 2 * others - len(flying), end)]:
            flying.append(pool.submit(function, item))
            given.append(flying[-1])
            start += 1
        if start < end:
            end -= 1
            own.append(function(items[end]))
    return [future.result() for future in given] + own[::-1]


@contextmanager
def _processes(number: int) -> Iterator[ProcessPoolExecutor]:
    # Fresh processes: a fork would copy locks that threads of polars may hold.
    pool = ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise InputError(
            f"one of {number} processes was killed, most likely for lack of memory; "
            "give the job more memory or fewer cores"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def without_collection() -> Iterator[None]:
    """Inside `with`, no search for cyclic garbage: it costs a third of work that makes many small objects and none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def map_files(function: Callable, items: Sequence) -> list:
    """`function` of each item, in order, for calls that open files: plain, or by threads where files are slow.

    A network disk answers in its own time, and threads wait for many answers at once; where files come at
    once, threads would only get into each other's way.
    """
    results = []
    for start in range(0, len(items), _BLOCK):
        trial, rest = items[start : start + _TRIAL], items[start + _TRIAL : start + _BLOCK]
        waits = _waits()
        results += map(function, trial)
        if _waits() - waits < len(trial) / 2:
            results += map(function, rest)
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                results += pool.map(function, rest)
    return results


def _waits() -> int:
    """How often this thread has given up the processor to wait; a busy machine taking it away is not counted."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _end_with_parent() -> None:
    """Let this process end when its parent does, even by kill -9; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
