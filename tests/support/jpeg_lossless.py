"""The simplest encoder of lossless JPEG (ITU-T T.81, annex H; DICOM's process 14, selection value 1), for tests."""

import struct

import numpy as np


def encode(pixels: np.ndarray, bits: int) -> bytes:
    """One grey component of `bits` (2 to 16); every sample predicted from its left neighbour."""
    height, width = pixels.shape
    stored = pixels.astype(np.int64)
    predicted = np.empty_like(stored)
    predicted[:, 1:] = stored[:, :-1]
    predicted[1:, 0] = stored[:-1, 0]
    predicted[0, 0] = 1 << (bits - 1)
    # Each difference (modulo 2^16) is the number of its bits, here a code of 5 bits, and then the bits.
    code = ""
    for difference in (((stored - predicted) + 2**15) % 2**16 - 2**15).ravel().tolist():
        size = 16 if difference == -(2**15) else abs(difference).bit_length()
        code += f"{size:05b}"
        if 0 < size < 16:
            code += f"{difference if difference > 0 else difference + 2**size - 1:0{size}b}"
    code += "1" * (-len(code) % 8)
    body = int(code, 2).to_bytes(len(code) // 8, "big").replace(b"\xff", b"\xff\x00")
    frame = struct.pack(">BHHBBBB", bits, height, width, 1, 1, 0x11, 0)
    table = bytes([0, *(17 if length == 5 else 0 for length in range(1, 17)), *range(17)])
    scan = bytes([1, 1, 0, 1, 0, 0])
    segments = [(0xC3, frame), (0xC4, table), (0xDA, scan)]
    headers = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for marker, content in segments
    )
    return b"\xff\xd8" + headers + body + b"\xff\xd9"
