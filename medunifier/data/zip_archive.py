"""Hundreds of thousands of small files in one zip file, read by several processes.

The standard library's zipfile spends more time on each entry than its few hundred bytes are worth. Here the
directory is walked through once for the names, and whoever knows a file's place in it finds the bytes with no search.
Layout: PKWARE's APPNOTE.TXT, 4.3.7 (local header), 4.3.12 (central directory), 4.3.14-16 (its end).
"""

import mmap
import struct
import zlib
from functools import cache
from pathlib import Path

from medunifier.runtime.errors import InputError

_END = struct.Struct("<4s4H2LH")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
# Of a directory entry and a local header only what is needed (x: bytes passed over). Of an entry: flags, method,
# checksum, packed and unpacked bytes, place of the local header.
_DIRECTORY_ENTRY = struct.Struct("<8x2H4x3L14xL")
_LENGTHS = struct.Struct("<4s24x3H")  # an entry's signature, lengths of name, extra field and comment
_LOCAL_HEADER = struct.Struct("<4s22x2H")  # signature, lengths of name and extra field
_STORED, _DEFLATED, _ENCRYPTED = 0, 8, 1
_LONGEST_COMMENT = 0xFFFF


class BrokenEntry(Exception):
    """The archive lists the file but does not hold it whole, or packs it in a way not known here."""


def read_directory(path: str | Path) -> dict[str, int]:
    """Name -> where its directory entry starts, for every file in the archive; what `read_entry` takes.

    Raises InputError for what is no whole zip file.
    """
    with open(path, "rb") as file, _mapped(file, path) as archive:
        try:
            start, size, count = _directory_place(archive)
            return _entries(archive[start : start + size], count, start)
        except (struct.error, ValueError) as error:
            raise InputError(
                f"{path}: not a whole zip file ({error}); download it again, or unpack it and give the folder"
            ) from error


def read_entry(path: str, place: int) -> bytes:
    """The bytes of one file of the archive at `path`. Raises BrokenEntry."""
    archive = _open(path)
    flags, method, crc, packed, unpacked, entry = _DIRECTORY_ENTRY.unpack_from(archive, place)
    if 0xFFFFFFFF in (packed, unpacked, entry):
        raise BrokenEntry("it has 4 GiB or more, which no report has")
    try:
        signature, name_length, extra_length = _LOCAL_HEADER.unpack_from(archive, entry)
    except struct.error:
        raise BrokenEntry("it lies behind the end of the zip file") from None
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
    """The archive, open for as long as the process lives."""
    with open(path, "rb") as file:
        return _mapped(file, path)


def _mapped(file, path: str | Path) -> mmap.mmap:
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise InputError(f"{path}: the zip file is empty") from None


def _directory_place(archive: mmap.mmap) -> tuple[int, int, int]:
    """Start and bytes of the central directory, number of its entries."""
    place = archive.rfind(b"PK\5\6", max(0, len(archive) - _END.size - _LONGEST_COMMENT))
    if place < 0:
        raise ValueError("its end is missing")
    *_, count, size, start, _ = _END.unpack_from(archive, place)
    locator = place - _LOCATOR_64.size
    if locator >= 0 and archive[locator : locator + 4] == b"PK\6\7":  # more than 65 535 entries, or 4 GiB
        place = _LOCATOR_64.unpack_from(archive, locator)[2]
        signature, *_, count, size, start = _END_64.unpack_from(archive, place)
        if signature != b"PK\6\6":
            raise ValueError("its ZIP64 end is damaged")
    return start, size, count


def _entries(directory: bytes, count: int, start: int) -> dict[str, int]:
    found, place = {}, 0
    for _ in range(count):
        signature, name_length, extra, comment = _LENGTHS.unpack_from(directory, place)
        if signature != b"PK\1\2":
            raise ValueError("its directory is damaged")
        name_at = place + _DIRECTORY_ENTRY.size
        found[str(directory[name_at : name_at + name_length], "utf-8", "replace")] = start + place
        place = name_at + name_length + extra + comment
    return found
