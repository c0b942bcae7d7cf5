"""What bad disks and interrupted copies do to finished results: outputs and cached objects checked by their MD5."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from medunifier.runtime.dvc_pipeline import Pipeline
from medunifier.runtime.integrity import damages
from workflow.dvc_repair import open_repo

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
SHOW_EVERY = 10 * 2**30  # bytes between two lines of progress
RERUN = "then run the pipeline again: it restores or computes only what is missing"


def discard_damaged(repo: Repo, stage: str) -> bool:
    """Remove outputs of a stage that are not what dvc.lock says, and the cached objects that they came from.

    DVC takes a cached object for good if its file is read-only, and restores it unread.

    Returns:
        Whether anything was damaged: the stage is then to be computed.
    """
    pipeline = Pipeline()
    found = False
    for output in pipeline.stages[stage].outputs:
        damaged = list(damages(Path(output), pipeline.locked[output], sample=None))
        for damage in damaged:
            print(
                f"[{stage}] {damage.path}: damaged in DVC's cache (MD5 {damage.found} instead of {damage.expected}); "
                f"removed, to be computed again",
                flush=True,
            )
            if OBJECT.fullmatch(damage.expected):
                Path(repo.cache.local.oid_to_path(damage.expected)).unlink(missing_ok=True)
        if damaged:
            found = True
            _remove(Path(output))
    return found


def refill_cache(repo: Repo, stage: Stage) -> None:
    """Put outputs that are as dvc.lock says into DVC's cache where it lacks them: DVC would compute them again."""
    for output in stage.outs:
        if output.use_cache and output.hash_info and output.exists and output.changed_cache():
            path = Path(output.fs_path).relative_to(repo.root_dir)
            if not list(damages(path, str(output.hash_info.value), sample=None)):
                output.commit(relink=False)


def damaged_outputs() -> Iterator[tuple[str, str]]:
    """Yield (what, fix) for each file of the present pipeline's outputs that differs from dvc.lock; reads all whole."""
    pipeline = Pipeline()
    for stage in pipeline.stages.values():
        for output in stage.outputs:
            if output in pipeline.locked:
                for damage in damages(Path(output), pipeline.locked[output], sample=None):
                    what = f"{damage.path}: MD5 {damage.found}, dvc.lock expects {damage.expected}"
                    yield what, f"rm -r {shlex.quote(str(damage.path))}; {RERUN}"


def damaged_objects() -> Iterator[tuple[str, str]]:
    """Yield (what, fix) for each object of DVC's cache, and of a remote that is a folder, of another content than its name."""
    with open_repo() as repo:
        folders = [Path(repo.cache.local.path)]
        for name in repo.config["remote"]:
            remote = repo.cloud.get_remote_odb(name)
            if remote.fs.protocol == "local":
                folders.append(Path(remote.path))
    size = 0
    for folder in folders:
        for path in sorted(folder.glob("[0-9a-f][0-9a-f]/*")):
            expected = path.parent.name + path.name.removesuffix(".dir")
            if len(expected) != 32 or not path.is_file():
                continue  # a half-written object, which DVC does not use
            size, before = size + path.stat().st_size, size
            if size // SHOW_EVERY > before // SHOW_EVERY:
                print(f"verified {size / 2**30:.0f} GiB of {folder}", file=sys.stderr, flush=True)
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
            if found != expected:
                yield f"{path}: its MD5 is {found}", f"rm -f {shlex.quote(str(path))}; {RERUN}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
