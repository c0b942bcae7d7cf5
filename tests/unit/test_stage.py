import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys

import pytest

from medunifier import stage as entry
from tests.support.paths import REPO
from tests.support.stored_runs import run_of, runs, send
from tests.support.tracking_project import python, set_parameter, start, write_stage


def test_a_stage_leaves_its_metrics_and_its_run(project):
    write_stage(project, "second", 'run.log(variant); run.metrics({"b": 2, "a": 0.5})', ("variant",))
    done = python(project, "second.py", "full")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[second@full] full\n", "")
    assert (project / "results/metrics/second@full.json").read_text() == '{\n  "a": 0.5,\n  "b": 2\n}\n'
    about = json.loads((project / "results/runs/second@full.json").read_text())
    assert send()
    assert about["stage"] == "second@full" and run_of(about["execution_id"]).status == "FINISHED"


def test_a_stage_without_metrics_leaves_an_empty_file(project):
    assert python(project, "first.py").returncode == 0
    assert (project / "results/metrics/first.json").read_text() == "{}\n"


def test_a_stage_ends_with_all_that_was_to_happen_at_its_end(project):
    body = (
        "import atexit, tempfile, threading, time\n"
        "atexit.register(print, 'registered')\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()\n"
        "run.folder = tempfile.TemporaryDirectory(dir='.', prefix='left-')\n"
    )
    write_stage(project, "first", body)
    done = python(project, "first.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "thread\nregistered\n", "")
    assert not list(project.glob("left-*"))


def test_threads_are_those_asked_for_or_one_a_core(monkeypatch):
    in_job = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}

    def threads(**asked: str) -> tuple[str, ...]:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
        for name in (*names, *entry.LIBRARY_DEFAULTS, "SLURM_CPUS_PER_TASK", *in_job):
            monkeypatch.setenv(name, "")  # so that it is as before, afterwards
            monkeypatch.delenv(name)
        for name, value in asked.items():
            monkeypatch.setenv(name, value)
        entry.set_library_defaults()
        return tuple(os.environ[name] for name in names)

    monkeypatch.setattr(entry, "available_cores", lambda: 6)
    assert threads() == ("6", "6", "6")
    assert threads(SLURM_CPUS_PER_TASK="4", **in_job) == ("4", "4", "4")
    assert threads(SLURM_CPUS_PER_TASK="1", SLURM_JOB_ID="7") == ("6", "6", "6"), "a shell of salloc"
    assert threads(OMP_NUM_THREADS="1") == ("1", "1", "6")
    assert threads(OMP_NUM_THREADS="1", MKL_NUM_THREADS="2") == ("1", "2", "6")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, "10000"),  # some tenths of a millisecond; 300000 by default
        ({"GOMP_SPINCOUNT": "17"}, "17"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"),
    ],
)
def test_openmp_threads_of_a_stage_soon_sleep_unless_told_otherwise(given, spins):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))
    }
    told = subprocess.run(
        [sys.executable, "-c", "import stages; import torch; torch.rand(9).sum()"],
        env=environment
        | given
        | {"OMP_DISPLAY_ENV": "VERBOSE"},  # GNU's OpenMP prints its settings as it starts
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in told, told


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "65536"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=65536"}, False),
    ],
)
def test_a_stage_keeps_freed_memory_unless_told_otherwise(given, kept):
    """A block of 8 MB that is freed and asked for again is made of the same pages, in place of 2048 fresh ones."""
    code = """
import stages, resource
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b"x" * 2**23
start = faults()
for _ in range(50):
    b"x" * 2**23
print(faults() - start)
"""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | given,
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    faults = int(printed)
    assert faults < 500 if kept else faults > 10_000, faults


def test_help_is_the_docstring(project):
    done = python(project, "second.py", "--help")
    assert done.returncode == 0
    assert "python -m stages.second" in done.stdout and "Does the second thing." in done.stdout
    assert "variant" in done.stdout and not (project / ".state").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "VARIANT is missing: a variant enabled in params.yaml"),
        (("--variant", ""), "VARIANT is missing"),
        (("full", "--variant", "full"), "VARIANT is given twice"),
    ],
)
def test_an_argument_is_given_once(project, arguments, message):
    done = python(project, "second.py", *arguments)
    assert done.returncode == 2 and message in done.stderr


def test_an_argument_may_be_an_option(project):
    assert python(project, "second.py", "--variant", "full").returncode == 0
    assert (project / "results/metrics/second@full.json").exists()


REFUSED = {
    "input error": (
        'from medunifier.runtime.errors import InputError\nraise InputError("a.csv, row 3: no id; add one")',
        "first: a.csv, row 3: no id; add one",
    ),
    "metric that is no number": ('run.metrics({"psnr": float("nan")})', "first: first: metric `psnr` is nan"),
    "full disk": (
        'raise OSError(28, "No space left on device", "out/big.arrow")',
        "first: the disk is full: could not write",
    ),
    "full quota": ('raise OSError(122, "Disk quota exceeded", "out/big.arrow")', "out/big.arrow"),
    "full disk, told by a Rust library": (
        'raise ValueError("could not save") from RuntimeError("No space left on device (os error 28)")',
        "free some space, then run the same command again",
    ),
    "read-only disk": (
        'raise OSError(30, "Read-only file system", "out/big.arrow")',
        "first: out/big.arrow: cannot be written, its disk is read-only; work in a folder",
    ),
    "read-only disk, told by SQLite": (
        'import sqlite3\nraise sqlite3.OperationalError("attempt to write a readonly database")',
        "its disk is read-only",
    ),
    "permission": (
        'raise PermissionError(13, "Permission denied", "out/big.arrow")',
        "first: out/big.arrow: permission denied; change its owner or mode",
    ),
    "file where a folder is needed": (
        'open("out", "w").close()\nfrom medunifier.runtime.files import write_text\nwrite_text("out/big.txt", "")',
        "first: out: a file is where a folder is needed",
    ),
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_user_can_fix_is_one_message(project, body, message):
    write_stage(project, "first", body)
    done = python(project, "first.py")
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not (project / "results/runs/first.json").exists()


def test_a_really_full_disk(project):
    """/dev/full refuses every write, as a full disk does."""
    write_stage(project, "first", 'open("/dev/full", "w", buffering=1).write("x\\n")')
    done = python(project, "first.py")
    assert done.returncode == 1 and "the disk is full" in done.stderr and "Traceback" not in done.stderr


def test_a_bug_keeps_its_traceback(project):
    write_stage(project, "first", "1 / 0")
    done = python(project, "first.py")
    assert done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr


def test_bad_parameters_stop_a_stage_before_it_begins(project):
    set_parameter(project, "seed", "-1")
    done = python(project, "first.py")
    assert done.returncode == 1 and "seed: -1 is refused" in done.stderr and "Traceback" not in done.stderr
    assert not (project / ".state").exists()


def test_a_locked_mlflow_database_keeps_no_stage_from_its_work(project):
    database = sqlite3.connect("mlflow.db")
    database.execute("BEGIN EXCLUSIVE")
    done = python(project, "first.py")
    database.close()
    assert (done.returncode, done.stderr) == (0, "")
    assert send() and [run.status for run in runs(dvc_stage="first")] == ["FINISHED"]


def test_termination_marks_the_run_killed(project):
    write_stage(project, "first", 'import time\nprint("here", flush=True)\ntime.sleep(30)')
    process = start(project, "first.py")
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM
    assert send()
    (run,) = runs(dvc_stage="first")
    assert run.status == "KILLED"


def test_library_defaults_respect_the_user(monkeypatch):
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "SLURM_CPUS_PER_TASK", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("POLARS_MAX_THREADS", "3")
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "20")
    for name, value in {"SLURM_CPUS_PER_TASK": "5", "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}.items():
        monkeypatch.setenv(name, value)
    entry.set_library_defaults()
    assert os.environ["OMP_NUM_THREADS"] == "5" and os.environ["POLARS_MAX_THREADS"] == "3"
    assert "HF_HUB_OFFLINE" not in os.environ
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "20"


def test_a_short_stage_pays_little_for_tracking(project):
    """No MLflow, no DVC, no torch: the imports that would cost seconds."""
    write_stage(
        project,
        "first",
        'run.metrics({"a": 1})\nimport atexit, sys\natexit.register(lambda: print(sorted(sys.modules)))',
    )
    modules = python(project, "first.py").stdout
    assert "'medunifier.tracking.run'" in modules
    for heavy in ("mlflow", "dvc", "torch", "polars", "matplotlib", "sqlalchemy"):
        assert f"'{heavy}'" not in modules
