"""Outputs of stages checked against dvc.lock: DVC trusts a file whose size and modification time have not changed.

A file that has not been seen before is read whole and its MD5 compared with what dvc.lock records. What was found is
kept in `.state/verified/` (inode, modification time, size, digests of blocks), so that later stages read only some
blocks of it, others in each stage, until the file changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medunifier.runtime.cpu import available_cores
from medunifier.runtime.dvc_pipeline import Pipeline, overlap
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import write_text

SMALLEST_BLOCK, MOST_BLOCKS = 2**20, 256  # bytes; blocks of a file
SAMPLED = 16  # files of an output of which a stage reads one block again
CACHE = Path(".dvc/cache/files/md5")


@dataclass(frozen=True)
class Damage:
    """A file, or a folder if nothing tells which of its files it is, that is not what dvc.lock says."""

    path: Path
    expected: str  # MD5 as in dvc.lock
    found: str

    def __str__(self) -> str:
        return (
            f"{self.path}: damaged: dvc.lock expects the MD5 {self.expected}, found {self.found}. Remove it and give "
            f"the same command again, which restores or computes only this: rm -r {shlex.quote(str(self.path))}"
        )


@dataclass(frozen=True)
class Seen:
    """What is known of a file that was read whole."""

    inode: int
    modified: int  # nanoseconds since 1970
    size: int  # bytes
    md5: str
    block: int  # bytes of a block
    digests: tuple[str, ...]  # of each block

    def is_of(self, path: Path) -> bool:
        """Return whether the file has not been replaced or changed since."""
        stat = path.stat()
        return (stat.st_ino, stat.st_mtime_ns, stat.st_size) == (self.inode, self.modified, self.size)


def verify_inputs(pipeline: Pipeline, stage: str) -> None:
    """Check what a stage reads of other stages' outputs against dvc.lock.

    Args:
        pipeline: of the present folder.
        stage: its name chooses which blocks of known files are read again.

    Raises:
        InputError: a file is damaged; the message names it and says how to get it back.
    """
    inputs = pipeline.stages[stage].inputs
    for maker in sorted(pipeline.makers(stage)):
        for output in pipeline.stages[maker].outputs:
            if output not in pipeline.locked:
                continue
            for path, expected, listing in _parts(output, pipeline.locked[output], inputs):
                for damage in damages(Path(path), expected, sample=stage, listing=listing):
                    raise InputError(str(damage))


def _parts(
    output: str, expected: str, inputs: Sequence[str]
) -> list[tuple[str, str, Mapping[str, str] | None]]:
    """Return path, hash and, if known, the files' MD5s of what `inputs` read of an output.

    That is the whole of it, or where all lie inside it, these parts: a data set's index, say, of all simulated files.
    """
    touching = [path for path in inputs if overlap(output, path)]
    listing = _listing(expected)
    if listing is None or any(not path.startswith(output + "/") for path in touching):
        return [(output, expected, listing)] if touching else []
    parts = []
    for path in touching:
        name = path.removeprefix(output + "/")
        inside = {
            file.removeprefix(name + "/"): md5 for file, md5 in listing.items() if file.startswith(name + "/")
        }
        if name in listing:
            parts.append((path, listing[name], None))
        elif inside:
            parts.append((path, _hash_of_listing(inside), inside))
    return parts


def damages(
    output: Path, expected: str, *, sample: str | None, listing: Mapping[str, str] | None = None
) -> Iterator[Damage]:
    """Yield what is damaged of one output; an output that is not there is none.

    Args:
        output: file or folder.
        expected: its hash in dvc.lock; that of a folder ends in `.dir`.
        sample: chooses the blocks of known files that are read again; None: everything is read whole.
        listing: MD5 of each file of a folder; None: as in DVC's cache, if it is there.
    """
    if not output.exists():
        return
    record = (
        Path(os.environ.get("MEDUNIFIER_STATE", ".state"))
        / "verified"
        / f"{hashlib.sha256(str(output).encode()).hexdigest()[:32]}.json"
    )
    known = {} if sample is None else _read_record(record, expected)
    found = list(_compare(output, expected, record, known, sample, listing))
    if found and known:  # the record may be damaged instead
        found = _compare(output, expected, record, {}, sample, listing)
    yield from found


def _compare(
    output: Path,
    expected: str,
    record: Path,
    known: Mapping[str, Seen],
    sample: str | None,
    listing: Mapping[str, str] | None,
) -> Iterator[Damage]:
    """Yield what is damaged of an output if `known`, from its record, holds; write the record if nothing is."""
    files = _files(output)
    fresh = [name for name, path in files.items() if name not in known or not known[name].is_of(path)]
    with ThreadPoolExecutor(available_cores()) as pool:
        read = dict(zip(fresh, pool.map(_read_whole, (files[name] for name in fresh)), strict=True))
    seen = {name: read.get(name) or known[name] for name in files}
    found = _hash_of(output, {name: file.md5 for name, file in seen.items()})
    if found != expected:
        should = listing or _listing(expected)
        yield from (
            [Damage(output, expected, found)] if should is None else _blame(output, should, files, seen)
        )
        return
    if fresh or known.keys() != seen.keys():
        _write_record(record, expected, seen)
    if sample is not None:
        yield from _sampled(files, seen, sorted(seen.keys() - set(fresh)), sample)


def _files(output: Path) -> dict[str, Path]:
    """Return the files of an output by their path inside it, as DVC lists them; of a single file, by ``."""
    if output.is_file():
        return {"": output}
    paths = (path for path in output.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(output).as_posix(): path for path in sorted(paths)}


def _hash_of(output: Path, digests: Mapping[str, str]) -> str:
    """Return DVC's hash of a file or folder: that of a folder is the MD5 of the JSON list of its files."""
    return digests[""] if output.is_file() else _hash_of_listing(digests)


def _hash_of_listing(digests: Mapping[str, str]) -> str:
    listed = [{"md5": digests[name], "relpath": name} for name in sorted(digests)]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


def _listing(expected: str) -> dict[str, str] | None:
    """Return the MD5 of each file of a folder from DVC's cache; None if the list is not there or damaged itself."""
    path = CACHE / expected[:2] / expected[2:]
    if not expected.endswith(".dir") or not path.is_file():
        return None
    content = path.read_bytes()
    if hashlib.md5(content).hexdigest() + ".dir" != expected:
        return None
    return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}


def _read_whole(path: Path) -> Seen:
    """Read a file once for its MD5 and the digests of its blocks."""
    stat = path.stat()
    block = max(SMALLEST_BLOCK, -(-stat.st_size // MOST_BLOCKS))
    whole, digests = hashlib.md5(), []
    with path.open("rb") as file:
        while chunk := file.read(block):
            whole.update(chunk)
            digests.append(_digest(chunk))
    return Seen(stat.st_ino, stat.st_mtime_ns, stat.st_size, whole.hexdigest(), block, tuple(digests))


def _digest(chunk: bytes) -> str:
    """Return the CRC-32 of a block: it finds damage, and takes a fifth of the time of the MD5 of the whole file."""
    return f"{zlib.crc32(chunk):08x}"


def _sampled(
    files: Mapping[str, Path], seen: Mapping[str, Seen], names: list[str], sample: str
) -> Iterator[Damage]:
    """Read one block of some files again and compare it with what was found when the file was read whole."""
    chosen = random.Random(sample)
    for name in chosen.sample(names, min(SAMPLED, len(names))):
        file = seen[name]
        if not file.digests:
            continue
        number = chosen.randrange(len(file.digests))
        with files[name].open("rb") as opened:
            opened.seek(number * file.block)
            if _digest(opened.read(file.block)) != file.digests[number]:
                yield Damage(files[name], file.md5, _read_whole(files[name]).md5)


def _blame(
    output: Path, should: Mapping[str, str], files: Mapping[str, Path], seen: Mapping[str, Seen]
) -> Iterator[Damage]:
    """Yield the files of a folder that are not as they should be."""
    for name in sorted(should.keys() | seen.keys()):
        if _md5(seen, name) != should.get(name):
            path = files.get(name, output / name)
            yield Damage(path, should.get(name, "none (no such file)"), _md5(seen, name) or "no file")


def _md5(seen: Mapping[str, Seen], name: str) -> str | None:
    return seen[name].md5 if name in seen else None


def _read_record(path: Path, expected: str) -> dict[str, Seen]:
    """Return what is known of an output's files; nothing if it is of other content or not readable."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        if content["hash"] != expected:
            return {}
        return {
            name: Seen(inode, modified, size, md5, block, tuple(digests))
            for name, (inode, modified, size, md5, block, digests) in content["crc32"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # then everything is read again


def _write_record(path: Path, expected: str, seen: Mapping[str, Seen]) -> None:
    files = {
        name: [file.inode, file.modified, file.size, file.md5, file.block, file.digests]
        for name, file in seen.items()
    }
    write_text(path, json.dumps({"hash": expected, "crc32": files}), shared=True)
