"""Ordered maps over many items by processes or threads; results do not depend on the number of workers."""

import gc
import multiprocessing
import os
import resource
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import polars as pl

from medunifier.runtime.errors import InputError

_BLOCK = 4096  # items; the first _TRIAL of them show whether opening files waits for the disk or network
_TRIAL = 32
_THREADS = 16


@contextmanager
def parallel_map(workers: int, chunk: int = 16) -> Iterator[Callable[[Callable, Iterable], Iterator]]:
    """Yield an ordered `map` over one iterable; the built-in one if there is one worker.

    Args:
        workers: number of processes.
        chunk: items that a process receives at once.

    Raises:
        InputError: The system killed a worker.
    """
    if workers == 1:
        yield map
        return
    with _processes(workers) as pool:
        yield lambda function, items: pool.map(function, items, chunksize=chunk)


@contextmanager
def shared_map(
    workers: int, function: Callable[[Any], pl.DataFrame]
) -> Iterator[Callable[[Sequence], list[pl.DataFrame]]]:
    """Yield a function that maps `function` over a sequence with this process and `workers - 1` others.

    For work of a few seconds: the other processes take some tenths of a second to start, and this one works meanwhile.
    Their tables come back as files: through a pipe, they and this process would wait for each other.

    Raises:
        InputError: The system killed a worker.
    """
    if workers == 1:
        yield lambda items: list(map(function, items))
        return
    with tempfile.TemporaryDirectory() as folder, _processes(workers - 1) as pool:
        for _ in range(workers - 1):
            pool.submit(callable, function)  # unpickling `function` makes the process import its module
        yield lambda items: _share(pool, workers - 1, function, items, Path(folder))


def _share(
    pool: ProcessPoolExecutor,
    others: int,
    function: Callable[[Any], pl.DataFrame],
    items: Sequence,
    folder: Path,
) -> list[pl.DataFrame]:
    """Map `function` over `items`: the `others` start at the front, this process at the back."""
    start, end = 0, len(items)
    submitted: list[Future[Path]] = []
    running: list[Future[Path]] = []
    own: list[pl.DataFrame] = []
    while start < end:
        running = [future for future in running if not future.done()]
        for item in items[start : min(start + 2 * others - len(running), end)]:
            running.append(pool.submit(_to_file, function, item, folder / str(start)))
            submitted.append(running[-1])
            start += 1
        if start < end:
            end -= 1
            own.append(function(items[end]))
    return [pl.read_ipc_stream(future.result()) for future in submitted] + own[::-1]


def _to_file(function: Callable[[Any], pl.DataFrame], item: object, path: Path) -> Path:
    """Write the table that `function` returns for an item."""
    function(item).write_ipc_stream(path)
    return path


@contextmanager
def _processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of spawned processes that end with this one."""
    # Spawned: a fork would copy locks that threads of polars may hold.
    pool = ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise InputError(
            f"one of {number} processes was killed, most likely for lack of memory; "
            "give the job more memory or fewer cores"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # they take a fifth of a second to end


@contextmanager
def without_collection() -> Iterator[None]:
    """Disable the cyclic garbage collector; it takes a third of the time where many small objects are made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def map_files(function: Callable, items: Sequence) -> list:
    """Map `function`, which opens a file, over `items` in order; use threads only where opening has to wait.

    On a network disk, threads wait for many answers at once. On a fast disk they only slow each other down.
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
    """Count the voluntary context switches of this thread: how often it waited for something."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _end_with_parent() -> None:
    """End this process when its parent ends, even by kill -9; it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is None:  # not a child process
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
