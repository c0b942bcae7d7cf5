"""Turn a stage's function into a command, a tracked run and clear errors."""

from __future__ import annotations

import argparse
import atexit
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from medunifier.runtime.cpu import available_cores
from medunifier.runtime.dvc_pipeline import Pipeline
from medunifier.runtime.errors import refuse
from medunifier.runtime.integrity import verify_inputs
from medunifier.runtime.memory import keep_freed_memory
from medunifier.runtime.params import load_params
from medunifier.runtime.processes import is_on_slurm_node
from medunifier.tracking import Run

LIBRARY_DEFAULTS = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what deterministic algorithms need on a GPU
    # Between two operations threads spin for some tenths of a millisecond, then sleep. By default they spin thirty times as
    # long: a second core is busy with nothing, and where others need it, each operation waits for its turn. Spinning for
    # less than our operations are apart, each waits until a thread has woken, which takes as long as an operation.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",
    # NumPy's and SciPy's own threads (OpenBLAS) likewise: 2^16 cycles in place of 2^26
    "OPENBLAS_THREAD_TIMEOUT": "16",
}


def run_stage(
    function: Callable, *, arguments: Sequence[str] = (), check: Callable[..., None] | None = None
) -> None:
    """Run `function(params, run, *arguments)` as the stage that its file is named after.

    The run is called `NAME` or `NAME@a-b`, as in dvc.yaml. Leaves `results/metrics/STAGE.json` and
    `results/runs/STAGE.json`. Exits with code 1 and one message on an InputError (bad parameters or data) and on a
    disk that is full or cannot be written; anything else is a bug and keeps its traceback. Under DVC it first checks the inputs against dvc.lock.

    Args:
        function: The stage, defined in `stages/NAME.py`.
        arguments: Names of its command-line arguments, all strings: in this order, or as options (`--variant full`).
        check: With `--check` on the command line, `check(params, *arguments)` checks the inputs instead, and no run
            is recorded.
    """
    stem = Path(function.__code__.co_filename).stem
    values, only_check = read_arguments(command_line(stem, function, arguments, check), arguments)
    name = stem + ("@" + "-".join(values.values()) if values else "")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Ctrl-C ends a stage as SIGTERM does, without a traceback
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: sys.exit(128 + signal.SIGINT))
    try:
        params = load_params()
        if only_check and check is not None:
            check(params, **values)
            return
        pipeline = Pipeline()
        with Run.open(name, pipeline) as run:
            # DVC has just brought the inputs up to date. A stage run by hand may well read others than dvc.lock has.
            if os.environ.get("DVC_STAGE") == name and int(os.environ.get("RANK", "0")) == 0:
                verify_inputs(pipeline, name)
            function(params, run, **values)
            run.finish()
    except Exception as error:
        sys.exit(refuse(name, error))
    # Several processes end together, as torch arranges it.
    if function.__module__ == "__main__" and "RANK" not in os.environ:
        leave()


def leave() -> NoReturn:
    """End this process without tearing down its modules; what is registered with `atexit` happens.

    With torch and transformers loaded the teardown takes one to two seconds of each stage.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def command_line(
    stem: str, function: Callable, arguments: Sequence[str], check: Callable[..., None] | None
) -> argparse.ArgumentParser:
    """Return the stage's command line; its help text is the docstring of `function`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{stem}",
        description=inspect.getdoc(function),
        epilog="Run from the repository root; parameters come from params.yaml.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for argument in arguments:
        parser.add_argument(
            argument, nargs="?", metavar=argument.upper(), help=f"a {argument} enabled in params.yaml"
        )
        parser.add_argument(f"--{argument}", dest=f"_{argument}", metavar=argument.upper(), help="the same")
    if check is not None:
        parser.add_argument("--check", action="store_true", help=inspect.getdoc(check))
    return parser


def read_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[dict[str, str], bool]:
    """Return the stage's arguments by name, and whether `--check` was given; exit with a usage error if one is missing."""
    given = vars(parser.parse_args())
    values = {name: given[name] or given[f"_{name}"] for name in arguments}
    for name, value in values.items():
        if not value:
            parser.error(f"{name.upper()} is missing: a {name} enabled in params.yaml")
        if given[name] and given[f"_{name}"]:
            parser.error(f"{name.upper()} is given twice")
    return values, given.get("check", False)


def set_library_defaults() -> None:
    """Set, where the user has not: threads for the cores this process may use, `LIBRARY_DEFAULTS`, and freed memory.

    Freed memory is kept, see `keep_freed_memory`.
    """
    in_job = os.environ.get("SLURM_CPUS_PER_TASK") if is_on_slurm_node() else None
    cores = in_job or str(available_cores())
    for variable in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ.setdefault(variable, cores)
    # A limit for OpenMP is meant for MKL, too; more threads than cores wait for each other.
    os.environ.setdefault("MKL_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    defaults = dict(LIBRARY_DEFAULTS)
    if "OMP_WAIT_POLICY" in os.environ:
        del defaults["GOMP_SPINCOUNT"]  # it would outweigh the user's policy
    for variable, value in defaults.items():
        os.environ.setdefault(variable, value)
    keep_freed_memory()
