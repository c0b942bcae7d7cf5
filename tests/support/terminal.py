"""Commands started as from a terminal, by tests that themselves may run in the background."""

import signal
import subprocess
from pathlib import Path


def start_in_terminal(
    command: str, folder: Path, environment: dict[str, str], output: Path
) -> subprocess.Popen:
    """Start a command in a process group of its own, where Ctrl-C reaches it; all that it prints goes to `output`."""
    with output.open("wb") as file:
        return subprocess.Popen(
            command.split(),
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
            # A shell starts its background jobs, and so their children, with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
