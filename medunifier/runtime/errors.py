"""Errors that a user can fix: bad input and a full disk. Everything else is a bug and shows its traceback."""

import errno
import os
import shutil
from pathlib import Path

DISK_FULL_CODES = (errno.ENOSPC, errno.EDQUOT)
# Rust and C++ libraries (polars, safetensors, sqlite) lose the errno and keep the text.
DISK_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full")


class InputError(Exception):
    """Bad input: the message names the file, the row or field, what was expected and what to do.

    `medunifier.stage.run_stage` prints it as one line and exits with code 1.
    """


def disk_full_message(error: BaseException) -> str | None:
    """Return a message for the user if `error` or one of its causes comes from a full disk, else None."""
    seen: BaseException | None = error
    while seen is not None:
        full = isinstance(seen, OSError) and seen.errno in DISK_FULL_CODES
        if full or any(word in str(seen) for word in DISK_FULL_WORDS):
            where = getattr(seen, "filename", None) or os.getcwd()
            folder = next(p for p in (Path(where), *Path(where).absolute().parents) if p.is_dir())
            free = shutil.disk_usage(folder).free / 2**20
            return (
                f"the disk is full: could not write {where} ({free:.0f} MiB free there, or a quota is used "
                "up); free some space, then run the same command again"
            )
        seen = seen.__cause__ or seen.__context__
    return None
