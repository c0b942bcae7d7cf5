"""python -m workflow.doctor: looks for what would keep the pipeline from running here, and says how to fix it.

Changes nothing. The exit code is 1 if anything was found. Run it on a node, too: srun python -m workflow.doctor
With --verify it also reads every output, DVC's cache and a remote that is a folder, and compares them with their MD5.
"""

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medunifier.runtime.errors import InputError, user_message
from medunifier.tracking import StoreError, background
from medunifier.tracking.journal import Journal
from medunifier.tracking.settings import UPLOAD_COMMAND, store_uri
from workflow import dvc_repair, verify

OLD = 3600  # seconds; DVC's hard-linked locks are renewed by a living owner long before


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    what: str
    fix: str  # what to do, as a command where there is one


def stale_dvc_locks() -> Iterator[Finding]:
    """Lock files and entries of dead processes in .dvc/tmp."""
    from workflow import locks

    folder = Path(".dvc/tmp")
    record = folder / "rwlock"
    if record.exists():
        try:
            content = json.loads(record.read_text(encoding="utf-8") or "{}")
        except json.JSONDecodeError:
            yield Finding(f"{record} was cut short", f"rm {record}")
            content = {}
        writers = list(content.get("write", {}).items())
        readers = [(path, entry) for path, entries in content.get("read", {}).items() for entry in entries]
        for path, entry in writers + readers:
            if not locks.is_alive(entry):
                yield Finding(
                    f"{record}: process {entry['pid']} ({entry['cmd']}), which is not on {socket.gethostname()}, "
                    f"holds {path}",
                    f"if no job works on it (squeue --me): rm {record}; a stage clears its own paths when it starts",
                )
    for path in (folder / "lock", folder / "rwlock.lock"):
        hard_link = path.exists() and path.stat().st_nlink > 1
        if hard_link and time.time() - path.stat().st_mtime > OLD:
            yield Finding(f"{path} has been held for over an hour by way of a hard link", f"rm {path}*")


def lock_method() -> Iterator[Finding]:
    """Whether this file system knows the locks that DVC and the workflow are configured to use."""
    folder = Path(".dvc/tmp")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        if not flock_excludes(Path(temporary) / "lock"):
            yield Finding(
                f"{folder.resolve()}: flock does not keep a second process out on this file system",
                "mount it with locks (NFS 4; Lustre: -o flock), or put the repository elsewhere; DVC alone also works "
                "with: dvc config core.hardlink_lock true",
            )
        if configured("core.hardlink_lock") == "true" and not hard_links_work(Path(temporary)):
            yield Finding(
                "core.hardlink_lock is on, but this file system has no hard links",
                "dvc config --local core.hardlink_lock false",
            )


def flock_excludes(path: Path) -> bool:
    """Whether a lock that this process holds keeps another process out."""
    import fcntl

    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    try:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            second = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False)
            return second.returncode != 0
    except OSError:
        return False


def hard_links_work(folder: Path) -> bool:
    """Return whether a file in `folder` can have a second name."""
    (folder / "one").touch()
    try:
        os.link(folder / "one", folder / "two")
    except OSError:
        return False
    return True


def cache_links() -> Iterator[Finding]:
    """Link types of the cache that cannot work: hard links and reflinks end at the border of a file system."""
    kinds = [kind.strip() for kind in configured("cache.type").split(",") if kind.strip()]
    place = configured("cache.dir")
    cache = Path(os.path.join(".dvc", place)) if place else Path(".dvc/cache")
    if not cache.exists() or not kinds or {"symlink", "copy"} & set(kinds):
        return
    if cache.stat().st_dev != Path().stat().st_dev:
        yield Finding(
            f"cache.type is {', '.join(kinds)}, but {cache.resolve()} is on another file system than the repository",
            "dvc config --local cache.type symlink",
        )


def tracking_store() -> Iterator[Finding]:
    """A store that MLflow's client cannot use or would have to bring up to date, and records that wait for it."""
    from medunifier.tracking.store import inspect  # imports MLflow, which takes seconds

    try:
        for problem in inspect(store_uri()):
            yield Finding(problem, "python -m medunifier.tracking prepare")
    except StoreError as error:
        yield Finding(str(error), "python -m medunifier.tracking prepare")
    waiting = [journal for journal in Journal.all() if journal.waits and not journal.alive]
    if waiting and not background.is_running():
        yield Finding(f"{len(waiting)} record(s) of stages have not reached MLflow", UPLOAD_COMMAND)


def half_written() -> Iterator[Finding]:
    """Files that a killed stage left under a temporary name, and shards of features without their manifest."""
    for folder in ("data", "models", "results"):
        for path in Path(folder).rglob("*.partial"):
            yield Finding(f"{path}: half-written", f"rm {path}")
    for tokens in Path("data/features").glob("*/*/tokens.npy"):
        if not tokens.with_name("manifest.json").exists():
            dataset, shard = tokens.parts[-3:-1]
            stage = f"extract_features@{dataset}-{shard}"
            yield Finding(
                f"{tokens.parent}: a shard without its manifest",
                f"rm -r {tokens.parent} && dvc repro -s {stage}",
            )


def environment() -> Iterator[Finding]:
    """Packages that this machine's Python lacks."""
    from importlib.metadata import PackageNotFoundError, version

    missing = []
    for package in ("torch", "transformers", "accelerate", "polars", "pyarrow", "dvc", "mlflow", "snakemake"):
        try:
            version(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        yield Finding(
            f"{socket.gethostname()}: {sys.executable} lacks {', '.join(missing)}",
            "make setup (in a folder that all nodes share), or: conda env create -f environment.yml",
        )


def nodes() -> Iterator[Finding]:
    """In a Slurm job of several nodes: nodes that lack this very Python or this folder."""
    count = int(os.environ.get("SLURM_JOB_NUM_NODES") or 1)
    if count < 2:
        return
    test = f"cd {Path.cwd()} && test -f dvc.yaml && {sys.executable} -c 'import torch' || hostname"
    command = [
        "srun",
        f"--nodes={count}",
        f"--ntasks={count}",
        "--ntasks-per-node=1",
        "--overlap",
        "sh",
        "-c",
        test,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for host in done.stdout.split():
        yield Finding(
            f"{host}: has not {sys.executable} with torch, or not {Path.cwd()}",
            "put both where all nodes see them",
        )


def configured(key: str) -> str:
    """A value of DVC's configuration; empty if it is not set."""
    from dvc.config import Config

    section, _, name = key.partition(".")
    value = Config(".dvc").get(section, {}).get(name, "")
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value or "")


def damaged_databases() -> Iterator[Finding]:
    """Databases of DVC that a disk has damaged: DVC fails at them."""
    for folder in dvc_repair.damaged_databases():
        yield Finding(f"{folder}: damaged database of DVC", f"rm -r {folder}; DVC makes a new one")


def inputs() -> Iterator[Finding]:
    """Files that stages read, no stage makes and are not there."""
    from dvc.exceptions import DvcException

    from workflow.changes import advice_on, missing_inputs

    try:
        missing = missing_inputs(dvc_repair.open_repo())
    except DvcException as error:
        yield Finding(f"DVC cannot read the pipeline: {error}", "see above")
        return
    for path, readers in missing.items():
        yield Finding(f"{path}: not there, but {', '.join(readers)} reads it", advice_on(path))


def moving_model() -> Iterator[Finding]:
    """A frozen encoder that is named by a branch of a hub: it may change while its features stay in the cache."""
    from medunifier.runtime.params import load_params

    vision = load_params().vision
    named = vision.source.startswith("torchvision:")  # its revision names weights, which do not move
    if vision.revision is not None and not named and not re.fullmatch("[0-9a-f]{40}", vision.revision):
        yield Finding(
            f"vision.revision: {vision.revision} is a branch or tag of {vision.model}, which may move",
            "put the commit (40 hexadecimal digits) that the model's page on the hub shows into params.yaml",
        )


def damage() -> Iterator[Finding]:
    """Outputs and cached objects whose content has changed without anybody's doing."""
    for what, fix in (*verify.damaged_outputs(), *verify.damaged_objects()):
        yield Finding(what, fix)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    environment,
    damaged_databases,
    inputs,
    moving_model,
    lock_method,
    stale_dvc_locks,
    cache_links,
    tracking_store,
    half_written,
    nodes,
)


def main() -> int:
    """Print every finding; return 1 if there is one."""
    if sys.argv[1:] not in ([], ["--verify"]):
        print(__doc__)
        return 0 if sys.argv[1:] == ["--help"] else 2
    found = 0
    for check in (*CHECKS, damage) if sys.argv[1:] else CHECKS:
        try:
            for finding in check():
                print(f"{finding.what}\n    fix: {finding.fix}")
                found += 1
        except (InputError, ImportError, OSError, sqlite3.DatabaseError) as error:
            why = user_message(error) or str(error)
            print(f"{check.__name__}: cannot be checked: {why}\n    fix: see above, then run this again")
            found += 1
    print(f"{found} thing(s) to fix" if found else "nothing to fix")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
