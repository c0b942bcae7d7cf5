"""What happens to files: each function spoils the file at a path, seeded where there is something to choose."""

import os
import random
from collections.abc import Callable
from pathlib import Path

Fault = Callable[[Path], None]


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    replace(path, b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def noise(path: Path) -> None:
    replace(path, random.Random(0).randbytes(5000))


def zeros(path: Path) -> None:
    replace(path, bytes(path.stat().st_size))


def html(path: Path) -> None:
    """What a download leaves that was not logged in."""
    replace(
        path, b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>Please log in.</body></html>\n"
    )


def cut(part: float) -> Fault:
    """Keep the first part of a file."""

    def fault(path: Path) -> None:
        content = path.read_bytes()
        replace(path, content[: int(len(content) * part)])

    return named(fault, f"cut_{part:g}")


def flip(seed: int) -> Fault:
    """Flip one bit."""

    def fault(path: Path) -> None:
        content, chosen = bytearray(path.read_bytes()), random.Random(seed)
        content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
        replace(path, bytes(content))

    return named(fault, f"flip_{seed}")


def written(content: bytes, name: str) -> Fault:
    """Another content."""
    return named(lambda path: replace(path, content), name)


def named(fault: Fault, name: str) -> Fault:
    fault.__name__ = name
    return fault


WHOLE_FILE: tuple[Fault, ...] = (missing, empty, folder, pipe, loop, dangling, noise, zeros, html)
