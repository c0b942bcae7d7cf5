"""What `workflow.run` shows while a stage works, and when it fails."""

import os
import subprocess
import sys
import time

import pytest

from workflow.run import _relayed

FAILING = """\
import errno, os, sys
import workflow.run as run
from dvc.exceptions import DvcException

def fail(name):
    {failure}

run.run_stage = fail
sys.exit(run.main())
"""
FULL = "raise OSError(errno.ENOSPC, 'No space left on device', 'models/full')"
CAUSES = """
    try:
        open('/nowhere/metadata.csv')
    except OSError as error:
        raise DvcException('failed to reproduce') from error
"""


def test_lines_of_progress_reach_the_terminal_whole_and_in_order(tmp_path):
    log = tmp_path / "log"
    log.touch()
    reading, writing = os.pipe()
    with _relayed(log, "train@full", writing), log.open("w") as file:
        for text in (
            "noise\n[train@full] one\n[other] no\n[train@",
            "full] two\n",
            "\rbar 30 %[train@full] three\n",
        ):
            file.write(text)
            file.flush()
            time.sleep(0.1)
        expected = b"[train@full] one\n[train@full] two\n[train@full] three\n"
        seen = b""
        while len(seen) < len(expected):
            seen += os.read(reading, 1000)
        assert seen == expected
        file.write("[train@full] the last\n")
    assert os.read(reading, 1000) == b"[train@full] the last\n", "what is said just before the end"


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (FULL, "the disk is full: could not write models/full"),
        # the disk of the log is full, too
        (f"os.dup2(os.open('/dev/full', os.O_WRONLY), 2); {FULL}", "the disk is full: could not write models/full"),
        (CAUSES, "failed to reproduce\n[Errno 2] No such file or directory: '/nowhere/metadata.csv'"),
        ("raise RuntimeError('a bug')", "RuntimeError: a bug"),
    ],
)  # fmt: skip
def test_the_cause_of_a_failure_reaches_the_terminal(tmp_path, failure, told):
    done = subprocess.run(
        [sys.executable, "-c", FAILING.format(failure=failure), "--log", tmp_path / "log", "train@full"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"{told}\n" in done.stderr or f"{told} (" in done.stderr
    assert done.stderr.count(told.splitlines()[0]) == 1
