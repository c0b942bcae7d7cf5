"""Errors that a user can fix: bad input, and a disk that is full, read-only or closed to this user.

Everything else is a bug and shows its traceback.
"""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

# Rust and C++ libraries (polars, safetensors, sqlite) lose the errno and keep the text.
_FULL = (
    (errno.ENOSPC, errno.EDQUOT),
    (
        "No space left on device",
        "Disk quota exceeded",
        "database or disk is full",
    ),
)
_READ_ONLY = (errno.EROFS,), ("Read-only file system", "attempt to write a readonly database")
_FORBIDDEN = (errno.EACCES,), ("Permission denied",)
LONGEST_LINE = 2000  # characters of a message
_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY)


class InputError(Exception):
    """Bad input: the message names the file, the row or field, what was expected and what to do.

    `medunifier.stage.run_stage` prints it as one line and exits with code 1. Of a line that quotes a file of no lines
    the middle is left out.
    """

    def __init__(self, message: object) -> None:
        super().__init__("\n".join(map(_shortened, str(message).split("\n"))))


def refuse(command: str, error: Exception) -> int:
    """Print one message for an error that a user can fix, and return the exit code 1; raise any other error again.

    Args:
        command: what was called, at the start of the message.
        error: as caught at the command's outermost place.
    """
    message = user_message(error)
    if message is None:
        raise error
    print(f"{command}: {message}", file=sys.stderr, flush=True)
    return 1


def user_message(error: BaseException) -> str | None:
    """Return a message for the user if `error` is an InputError or the disk's doing; None for a bug."""
    return str(error) if isinstance(error, InputError) else disk_message(error)


def disk_message(error: BaseException) -> str | None:
    """Return a message for the user if `error` or one of its causes comes from the disk or its permissions, else None."""
    for seen in _chain(error):
        where = getattr(seen, "filename", None) or os.getcwd()
        if _is(seen, *_FULL):
            folder = next(p for p in (Path(where), *Path(where).absolute().parents) if p.is_dir())
            free = shutil.disk_usage(folder).free / 2**20
            return (
                f"the disk is full: could not write {where} ({free:.0f} MiB free there, or a quota is used "
                "up); free some space, then run the same command again"
            )
        if _is(seen, *_READ_ONLY):
            return f"{where}: cannot be written, its disk is read-only; work in a folder that can be written"
        if _is(seen, *_FORBIDDEN):
            return f"{where}: permission denied; change its owner or mode (chown, chmod), or work elsewhere"
    if isinstance(error, OSError) and error.errno in _IN_THE_WAY and error.filename:
        why = os.strerror(error.errno)
        return f"{error.filename}: a file is where a folder is needed, or a folder where a file is ({why}); move it away"
    return None


def _shortened(line: str) -> str:
    half = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause or context, the cause of that, and so on."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _is(error: BaseException, codes: tuple[int, ...], words: tuple[str, ...]) -> bool:
    return (isinstance(error, OSError) and error.errno in codes) or any(word in str(error) for word in words)
