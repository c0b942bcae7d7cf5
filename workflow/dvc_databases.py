"""DVC's databases of known hashes and links: a memory that saves time, forgotten where a disk has damaged it.

DVC itself ends with `database disk image is malformed`, whatever it is asked.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path


def damaged() -> Iterator[Path]:
    """Yield the folder of each database of DVC on this machine that SQLite finds damaged."""
    from dvc.config import Config
    from dvc.dirs import site_cache_dir

    core = Config(".dvc")["core"]
    for path in sorted(Path(site_cache_dir(core.get("site_cache_dir"))).glob("repo/*/**/cache.db")):
        if not _is_whole(path):
            yield path.parent


def forget_damaged() -> bool:
    """Remove damaged databases; return whether there was one. DVC makes new ones and reads its files once more."""
    found = list(damaged())
    for folder in found:
        print(f"{folder}: damaged database of DVC, removed; DVC reads its files once more", file=sys.stderr)
        shutil.rmtree(folder)
    return bool(found)


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
