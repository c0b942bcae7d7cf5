"""Read hundreds of thousands of small files from one zip archive, in several processes.

The standard library's zipfile is slow for entries of a few hundred bytes. Here the central directory is read once
for the names; the offset of an entry is then enough to read its bytes.
Format: PKWARE's APPNOTE.TXT, 4.3.7 (local header), 4.3.12 (central directory), 4.3.14-16 (its end).
"""

import mmap
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import BinaryIO

from medunifier.runtime.errors import InputError

_END = struct.Struct("<4s4H2LH")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
# Only the needed fields of a directory entry and a local header (x: skipped bytes). Of a directory entry: flags,
# method, checksum, packed and unpacked bytes, offset of the local header.
_DIRECTORY_ENTRY = struct.Struct("<8x2H4x3L14xL")
_LENGTHS = struct.Struct("<4s24x3H")  # an entry's signature, lengths of name, extra field and comment
_LOCAL_HEADER = struct.Struct("<4s22x2H")  # signature, lengths of name and extra field
_STORED, _DEFLATED, _ENCRYPTED = 0, 8, 1
_LONGEST_COMMENT = 0xFFFF


class BrokenEntry(Exception):
    """The archive lists the file, but its bytes are damaged, or compressed by an unsupported method."""


def read_directory(path: str | Path) -> dict[str, int]:
    """Map each file name in the archive to the offset of its directory entry, which `read_entry` takes.

    Raises:
        InputError: The file is not a complete zip archive.
    """
    with open(path, "rb") as file, _mapped(file, path) as archive:
        try:
            start, size, count = _directory_span(archive)
            return _entries(archive[start : start + size], count, start)
        except (struct.error, ValueError) as error:
            raise InputError(
                f"{path}: not a whole zip file ({error}); download it again, or unpack it and give the folder"
            ) from error


def read_entry(path: str, offset: int) -> bytes:
    """Return the bytes of one file of the archive at `path`; `offset` as from `read_directory`.

    Raises:
        BrokenEntry: The entry is damaged or cannot be decompressed.
    """
    archive = _open(path)
    flags, method, crc, packed, unpacked, entry = _DIRECTORY_ENTRY.unpack_from(archive, offset)
    if 0xFFFFFFFF in (packed, unpacked, entry):
        raise BrokenEntry("it has 4 GiB or more, which no report has")
    try:
        signature, name_length, extra_length = _LOCAL_HEADER.unpack_from(archive, entry)
    except struct.error:
        raise BrokenEntry("it lies after the end of the zip file") from None
    if signature != b"PK\3\4" or flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
        raise BrokenEntry("the zip file is damaged there, or packed by a method other than deflate")
    start = entry + _LOCAL_HEADER.size + name_length + extra_length
    content = archive[start : start + packed]
    try:
        if method == _DEFLATED:
            content = zlib.decompress(content, -zlib.MAX_WBITS)
    except zlib.error as error:
        raise BrokenEntry(f"it cannot be unpacked ({error})") from None
    if zlib.crc32(content) != crc:
        raise BrokenEntry("its checksum is wrong")
    return content


@cache
def _open(path: str) -> mmap.mmap:
    """Return the memory-mapped archive; it stays open until the process ends."""
    with open(path, "rb") as file:
        return _mapped(file, path)


def _mapped(file: BinaryIO, path: str | Path) -> mmap.mmap:
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise InputError(f"{path}: the zip file is empty") from None


def _directory_span(archive: mmap.mmap) -> tuple[int, int, int]:
    """Return the offset and size in bytes of the central directory, and the number of its entries."""
    end = archive.rfind(b"PK\5\6", max(0, len(archive) - _END.size - _LONGEST_COMMENT))
    if end < 0:
        raise ValueError("its end is missing")
    *_, count, size, start, _ = _END.unpack_from(archive, end)
    locator = end - _LOCATOR_64.size
    if locator >= 0 and archive[locator : locator + 4] == b"PK\6\7":  # more than 65 535 entries, or 4 GiB
        end = _LOCATOR_64.unpack_from(archive, locator)[2]
        signature, *_, count, size, start = _END_64.unpack_from(archive, end)
        if signature != b"PK\6\6":
            raise ValueError("its ZIP64 end is damaged")
    return start, size, count


def _entries(directory: bytes, count: int, start: int) -> dict[str, int]:
    """Map the names in a central directory, which begins at offset `start`, to the offsets of their entries."""
    found, position = {}, 0
    for _ in range(count):
        signature, name_length, extra, comment = _LENGTHS.unpack_from(directory, position)
        if signature != b"PK\1\2":
            raise ValueError("its directory is damaged")
        name_at = position + _DIRECTORY_ENTRY.size
        found[str(directory[name_at : name_at + name_length], "utf-8", "replace")] = start + position
        position = name_at + name_length + extra + comment
    return found
