"""Files of DVC's own that a disk has damaged: DVC fails at them whatever it is asked, and makes them again without them.

Its databases of known hashes and links are a memory that saves time. The list of a folder's files in its cache is
needed where the folder is to be restored; without it the stage is computed.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path


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
