"""What a bad disk does to a file."""

import os
from pathlib import Path


def flip(path: Path, position: int = 0, bit: int = 0, *, keep_time: bool = True) -> None:
    """Flip one bit of a file; size and mode stay and, with `keep_time`, the times."""
    stat = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))
    path.chmod(stat.st_mode)
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
