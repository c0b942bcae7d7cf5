"""Read the bytes of an image file without hanging, and find damage that decoders pass over in silence."""

import errno
import hashlib
import os
import re
import stat
import zlib
from pathlib import Path

from medunifier.runtime.errors import InputError

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
DICOM_START, DICOM_AT = b"DICM", 128  # PS3.10 section 7.1: a preamble of 128 bytes, then the prefix
BYTES_A_PIXEL = 8  # no format stores more; a larger file holds more pixels than allowed, or no image
_IMPOSSIBLE = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)  # no file can be read there, now or later
# In compressed data FF is followed by 00, a marker by neither 00 nor FF (ITU-T T.81, B.1.1.2, B.1.1.5).
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_WITHOUT_LENGTH = (0x00, 0x01, *range(0xD0, 0xD8))
_RESTARTS = range(0xD0, 0xD8)  # RST0 to RST7, in this order, between intervals of a scan
# What may follow a scan: DHT, DAC, SOF1 to SOF15, EOI, SOS, DQT, DNL, DRI, APPn and COM (ITU-T T.81, table B.1).
_AFTER_SCAN = {*range(0xC0, 0xD0), *range(0xD9, 0xDE), *range(0xE0, 0xF0), 0xFE}


class UnreadableImage(Exception):
    """The file exists but cannot be decoded completely."""


class TooLargeImage(UnreadableImage):
    """The image has more pixels than allowed."""


class WrongChecksum(UnreadableImage):
    """The file can be decoded, but is not the one whose checksum is listed."""


def read_content(path: str | Path, max_megapixels: int) -> bytes:
    """Return the bytes of an image file.

    Raises:
        UnreadableImage: No regular file can be opened there: a folder, a pipe, a loop of links, an impossible name.
        TooLargeImage: The file is larger than an image of `max_megapixels` million pixels.
        InputError: There is no file, or the disk does not give it.
    """
    try:
        # Without waiting: opening a pipe would last until someone writes to it.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except ValueError as error:  # a NUL in the name
        raise UnreadableImage(f"no file can have this name ({error})") from error
    except OSError as error:
        if error.errno in _IMPOSSIBLE:
            raise UnreadableImage(os.strerror(error.errno)) from error
        raise _not_there(path, error) from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise UnreadableImage(f"{kind}, not a file")
        if status.st_size > max_megapixels * 1_000_000 * BYTES_A_PIXEL:
            raise TooLargeImage(
                f"{status.st_size:,} bytes, more than an image of {max_megapixels} megapixels has"
            )
        with open(file, "rb", buffering=0, closefd=False) as opened:
            return opened.readall()
    except OSError as error:
        raise _not_there(path, error) from error
    finally:
        os.close(file)


def _not_there(path: str | Path, error: OSError) -> InputError:
    return InputError(
        f"{path}: {os.strerror(error.errno or 0)}; the file was there when the data set was prepared: "
        "check the disk, or run prepare again"
    )


def check_png(content: bytes) -> None:
    """Check the CRC of every chunk of a PNG file; Pillow skips those of the pixels.

    Format: PNG specification (W3C), section 5.3: length, type, data, CRC over type and data.

    Raises:
        UnreadableImage: A CRC is wrong, or the file ends before its last chunk.
    """
    at = len(PNG_START)
    while True:
        length, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(content):
            raise UnreadableImage("the PNG file is truncated: it has no IEND chunk")
        if zlib.crc32(memoryview(content)[at + 4 : end]) != int.from_bytes(content[end : end + 4]):
            raise UnreadableImage(f"the PNG file is damaged: wrong CRC of the chunk {kind!r} at byte {at}")
        if kind == b"IEND":
            return
        at = end + 4


def check_jpeg(content: bytes) -> tuple[str, ...]:
    """Check the markers between and within the scans of a JPEG file.

    libjpeg warns of what is found here and fills the rest of the image with guesses; Pillow drops the warning. Damage
    that leaves no trace in the markers (a flipped bit, a block of zeros) needs a listed checksum to be found.

    Returns:
        Notes of what may do no harm: bytes between two markers before the pixels, bytes after the end.

    Raises:
        UnreadableImage: A scan holds a marker that cannot be there, or restart markers are not in order.
    """
    at, in_pixels, notes = len(JPEG_START) - 1, False, set()
    while at + 4 <= len(content):
        marker = content[at + 1]
        if content[at] != 0xFF:
            if in_pixels:
                raise UnreadableImage(f"the JPEG file is damaged: no marker at byte {at}, within its pixels")
            notes.add("JPEG with stray bytes between its markers")
            at += 1
        elif marker == 0xFF:  # a fill byte
            at += 1
        elif marker == _END_OF_IMAGE:
            # Of an end within the pixels, the decoder guesses the rest; cameras, too, append bytes to whole images.
            if content[at + 2 :].strip(b"\0"):
                notes.add("JPEG with bytes after its end")
            break
        elif marker in _WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4])
            if marker == _START_OF_SCAN:
                at, in_pixels = _end_of_scan(content, at), True
    return tuple(notes)  # what ends too early is reported by the decoder


def _end_of_scan(content: bytes, start: int) -> int:
    """Return the position of the marker after the compressed data that begin at `start`."""
    restart = 0
    for found in _MARKER.finditer(content, start):
        marker = found[1][0]
        if marker == _RESTARTS[restart % 8]:
            restart += 1
        elif marker in _AFTER_SCAN:
            return found.start()
        else:
            raise UnreadableImage(
                f"the JPEG file is damaged: marker FF{marker:02X} at byte {found.start()}, within its pixels"
            )
    return len(content)


def check_listed(content: bytes, sha256: str | None) -> None:
    """Compare a file with its listed SHA-256, if there is one.

    Raises:
        WrongChecksum: They differ.
    """
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256.lower():
        raise WrongChecksum(f"SHA-256 is {found}, listed is {sha256}; fetch the file again")
