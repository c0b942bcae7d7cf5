import gc
import os
import signal
import subprocess
import sys
import threading
import time

import polars as pl
import psutil
import pytest

from medunifier.data.parallel import map_files, parallel_map, shared_map, without_collection
from medunifier.runtime.errors import InputError
from tests.support.paths import REPO


def square_slowly(number):
    time.sleep(0.01 * (number % 3))
    return number * number, os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_their_order_whatever_the_number_of_workers(workers):
    with parallel_map(workers) as mapped:
        results = list(mapped(square_slowly, range(40)))
    assert [result for result, _ in results] == [number * number for number in range(40)]
    assert (os.getpid() in {process for _, process in results}) == (workers == 1)


def square_table(number):
    square, process = square_slowly(number)
    return pl.DataFrame(
        {"square": [square], "process": [process], "text": [None if number % 2 else "ä" * number]}
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_shared_work_keeps_its_order_and_this_process_does_its_part(workers):
    with shared_map(workers, square_table) as mapped:
        results = pl.concat(mapped(list(range(300))))
        assert mapped([]) == []
    assert results["square"].to_list() == [number * number for number in range(300)]
    assert results["text"].to_list() == [None if number % 2 else "ä" * number for number in range(300)]
    processes = set(results["process"])
    assert os.getpid() in processes and (len(processes) > 1) == (workers > 1)


def end_the_other(parent):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)


def test_a_killed_process_of_shared_work_is_an_error():
    killed = pytest.raises(InputError, match="killed, most likely for lack of memory")
    with killed, shared_map(2, end_the_other) as mapped:
        mapped([os.getpid()] * 100)


def test_without_collection_leaves_it_as_it_was():
    with without_collection():
        assert not gc.isenabled()
        with without_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.parametrize("slow", [False, True])
def test_files_that_come_at_once_are_read_plainly_and_slow_ones_by_threads(monkeypatch, slow):
    monkeypatch.setattr("medunifier.data.parallel._BLOCK", 60)
    threads = set()

    def read(number):
        if slow:
            time.sleep(0.002)
        threads.add(threading.current_thread())
        return number * number

    assert map_files(read, list(range(200))) == [number * number for number in range(200)]
    assert (len(threads) > 1) == slow
    assert map_files(read, []) == []


def end_abruptly(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error():
    with pytest.raises(InputError, match="killed, most likely for lack of memory"), parallel_map(2) as mapped:
        list(mapped(end_abruptly, range(4)))


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import time\n"
        "from medunifier.data.parallel import parallel_map\n"
        "if __name__ == '__main__':\n"
        "    with parallel_map(2) as mapped:\n"
        "        results = mapped(time.sleep, [0] * 16 + [60])\n"
        "        print('started', next(results), flush=True)\n"
        "        next(results)\n"
    )
    repository = REPO
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    parent = subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True)
    assert "started" in parent.stdout.readline()
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
