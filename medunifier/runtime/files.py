"""The one atomic writer: files and folders that are whole or absent; and the check that there is a file to read."""

import csv
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medunifier.runtime.errors import InputError


def regular_file(path: str | Path, advice: str) -> Path:
    """Return the path of a file that is to be read; a pipe, of which reading would wait for a writer, is none.

    Args:
        path: where it has to be; links are followed.
        advice: what to do if it is not there, for the message.

    Raises:
        InputError: there is none, or it cannot be looked up.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        gone = isinstance(error, FileNotFoundError)
        raise InputError(f"{path}: {'not found' if gone else error}; {advice}") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: a folder where a file is needed; {advice}")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: a pipe or a device where a file is needed; {advice}")
    return Path(path)


def require_no_pipes(folder: str | Path) -> None:
    """Check that a folder holds no pipe and no device, on which a library that reads its files would wait for ever.

    Raises:
        InputError: it does.
    """
    for path in Path(folder).iterdir():
        if path.exists() and not path.is_dir():
            regular_file(path, "remove it")


@contextmanager
def atomic_path(path: str | Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; it becomes `path` when the block ends without an error.

    A process that is killed or fails inside the block leaves `path` as it was. Missing folders are made.

    Args:
        path: The file to write.
        shared: Whether several processes may write `path` at the same time: each then has a temporary name of its
            own, and the last one wins. Without it a killed process leaves at most one temporary file.

    Raises:
        OSError: The disk is full or the folder cannot be written; its `filename` is set.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial" if shared else f".{path.name}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # libraries report that the disk is full, not where
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, names: Collection[str]) -> Iterator[Path]:
    """Yield a new folder beside `path` to write to; it becomes `path` when the block ends without an error.

    A process that is killed or fails inside the block leaves `path` as it was; the next one clears what it left.

    Args:
        path: The folder to write. One that is there is replaced.
        names: The files that it will hold.

    Raises:
        InputError: The folder that is there holds other files, which would be lost.
        OSError: The disk is full or the folder cannot be written.
    """
    path = Path(path).resolve()  # of a link, the folder that it leads to is replaced
    others = sorted(set(os.listdir(path)) - set(names)) if path.exists() else []
    if others:
        raise InputError(f"{path}: holds {others[0]}, which would be lost; give a folder of its own")
    new, old = (path.with_name(f".{path.name}.{kind}") for kind in ("partial", "old"))
    for left in (new, old):
        if left.exists():
            shutil.rmtree(left)
    new.mkdir(parents=True)
    try:
        yield new
        if path.exists():
            os.replace(path, old)  # a folder with files in it cannot be replaced in one step
        os.replace(new, path)
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def write_text(path: str | Path, text: str, *, shared: bool = False) -> None:
    """Write `text` in UTF-8, atomically; `shared` as in `atomic_path`."""
    with atomic_path(path, shared=shared) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any, *, shared: bool = False) -> None:
    """Write `content` as indented JSON, atomically; `shared` as in `atomic_path`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", shared=shared)


def write_curves(rows: list[dict[str, Any]], path: str | Path) -> None:
    """Write all points of all curves as CSV: step, split, then a column per value, empty where not measured."""
    columns = dict.fromkeys(name for row in rows for name in row)
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )
