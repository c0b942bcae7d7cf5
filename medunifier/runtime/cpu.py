"""The number of processor cores that this process may use."""

import os


def available_cores() -> int:
    """Return the number of cores this process may use: its affinity where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
