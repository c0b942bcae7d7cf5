"""How the C library handles memory that is freed."""

import ctypes
import os

# Parameters of glibc's mallopt (malloc.h) and their values: blocks up to 32 MiB, glibc's limit, come from the heap, and
# the heap keeps what is freed at its end.
SETTINGS = {
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
    "M_TOP_PAD": (-2, 64 * 2**20),
    "M_MMAP_THRESHOLD": (-3, 32 * 2**20),
}


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for what is allocated next, up to 2 GiB, rather than give it back to the system.

    A layer's output is some megabytes. By default glibc gives such a block back as soon as it is freed, and the next
    layer gets fresh pages, which the system clears one by one: with a CNN on a CPU that was a quarter of all processor
    time (docs/features.md). What a user has set by MALLOC_... or GLIBC_TUNABLES stays; other C libraries are left alone.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return
    for parameter, value in SETTINGS.values():
        mallopt(parameter, value)
