"""The repository itself in a folder of its own, with parameters for a whole pipeline in minutes on two cores."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.paths import REPO
from tests.support.small_pipeline import SMALL, shrink_parameters
from tests.support.terminal import start_in_terminal

SITE = """\
default: {cpus: 1, mem_mb: 2000, partition: gpu}
decode_images: {nodes: 2}
pretrain: {nodes: 2}
train_prior: {nodes: 2}
"""


class Project:
    """A checkout of this working tree, ready for `snakemake --profile slurm`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def build(self) -> "Project":
        """Copy the tracked and the new files; few phantoms, small parts, a site of two nodes."""
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.check_output(listed, cwd=REPO, text=True).split("\0"):
            source, target = REPO / name, self.folder / name
            if name and (source.is_symlink() or source.is_file()):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target, follow_symlinks=False)
        self.edit(
            "medunifier/storage/image_shards.py", r"PART_ROWS = \d+", "PART_ROWS = 20"
        )  # several parts to share out
        self.set(SMALL)
        (self.folder / "workflow/site.yaml").write_text(SITE)
        self.shell("git init -q && git add -A . && git -c user.name=a -c user.email=a@b commit -qm first")
        return self

    def edit(self, path: str, pattern: str, replacement: str) -> None:
        """Replace what matches `pattern`; it must be there once."""
        file = self.folder / path
        text, times = re.subn(pattern, replacement, file.read_text())
        assert times == 1, f"{path}: {pattern} {times} times"
        file.write_text(text)

    def set(self, values: Mapping[str, Any]) -> None:
        """Change parameters; nested keys that are not named stay."""
        shrink_parameters(self.folder / "params.yaml", values)

    def shell(self, command: str, code: int = 0) -> str:
        """What a command prints; it must end with `code`."""
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{self.logs()}"
        return done.stdout

    def start(self, command: str) -> "Started":
        """A command, started in a process group of its own."""
        return Started(self, command)

    def start_shell(self, command: str) -> subprocess.Popen:
        """A shell command, started."""
        return subprocess.Popen(command, shell=True, cwd=self.folder, env=self.environment)

    def read(self, path: str) -> str:
        """A file's text; nothing if it does not exist."""
        file = self.folder / path
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def json(self, path: str) -> dict:
        return json.loads(self.read(path))

    def logs(self) -> str:
        """The ends of all logs, to explain a failure."""
        paths = [*self.folder.glob(".state/logs/*"), *self.folder.glob(".snakemake/slurm_logs/**/*.log")]
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in paths)


class Started:
    """A running command; what it prints so far is `text`."""

    def __init__(self, project: Project, command: str) -> None:
        self.project, self.command = project, command
        self.output = (
            project.folder.parent / f"output-{len(list(project.folder.parent.glob('output-*')))}.txt"
        )
        self.process = start_in_terminal(command, project.folder, project.environment, self.output)

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def wait(self, code: int = 0, seconds: float = 1800) -> str:
        assert self.process.wait(seconds) == code, f"{self.command}\n{self.text}\n{self.project.logs()}"
        return self.text

    def kill(self) -> None:
        """Kill -9 of the command and of what it started on this machine, jobs apart."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
