"""DVC on a bad disk: its own files that are damaged, and its databases where nothing can be written.

DVC fails at a damaged file whatever it is asked, and makes it again where it is gone. Its databases of known hashes
and links are a memory that saves time. The list of a folder's files in its cache is needed where the folder is to be
restored; without it the stage is computed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc_data.hashfile.cache import Cache

# Primary codes of SQLite's errors that do not pass with time.
UNWRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN)
FULL = 2**20  # bytes that are left on a disk on which databases no longer work


def open_repo() -> Repo:
    """Open DVC's repository of this folder; its databases raise an error where they cannot write.

    By themselves they would try again for ever: the library under them takes every operational error of SQLite for a
    lock that will be gone in a moment.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.cache import Cache

    setattr(Cache, "_sql", property(_execute))  # noqa: B010  # a property of the library's without a setter
    return Repo(_wait_for_lock=True)


def _execute(cache: Cache) -> Callable[..., sqlite3.Cursor]:
    def execute(*arguments: Any) -> sqlite3.Cursor:
        try:
            return cache._con.execute(*arguments)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in UNWRITABLE:
                raise
            for number in _what_the_disk_lacks(cache.directory):
                raise OSError(number, os.strerror(number), cache.directory) from error
            raise sqlite3.DatabaseError(str(error)) from error

    return execute


def _what_the_disk_lacks(folder: str) -> Iterator[int]:
    """Yield the error number of each reason for which nothing can be written below a folder."""
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        yield errno.EROFS
    if shutil.disk_usage(folder).free < FULL:
        yield errno.ENOSPC


def repair() -> bool:
    """Remove damaged databases and lists; return whether there was one, so that another attempt is worth it."""
    found = [*damaged_databases(), *_damaged_lists()]
    for path in found:
        print(f"{path}: damaged, and removed: DVC makes it again", file=sys.stderr, flush=True)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return bool(found)


def damaged_databases() -> Iterator[Path]:
    """Yield the folder of each database of DVC on this machine that SQLite finds damaged."""
    from dvc.config import Config
    from dvc.dirs import site_cache_dir

    core = Config(".dvc")["core"]
    for path in sorted(Path(site_cache_dir(core.get("site_cache_dir"))).glob("repo/*/**/cache.db")):
        if not _is_whole(path):
            yield path.parent


def _is_whole(path: Path) -> bool:
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return database.execute("PRAGMA quick_check").fetchone() == ("ok",)
        finally:
            database.close()
    except sqlite3.OperationalError:  # in use, or another user's: nothing is known
        return True
    except sqlite3.DatabaseError:
        return False


def _damaged_lists() -> Iterator[Path]:
    """Yield the lists of folders in DVC's cache whose MD5 is not their name."""
    from dvc.config import Config

    place = Config(".dvc")["cache"].get("dir")  # as in the file: relative to .dvc
    folder = Path(".dvc", place or "cache") / "files/md5"
    for path in sorted(folder.glob("??/*.dir")):
        if hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.stem:
            yield path
