"""Dated records of measurements in benchmarks/results/."""

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def path(name: str) -> Path:
    """Return the path of today's record of a benchmark."""
    return RESULTS / f"{name}-{datetime.date.today().isoformat()}.json"


def save(name: str, command: str, about: Mapping[str, Any], packages: Sequence[str] = ("torch",)) -> Path:
    """Write results/NAME-DATE.json.

    Args:
        name: of the benchmark.
        command: that measured it.
        about: settings and values.
        packages: whose versions are recorded, beside Python's.

    Returns:
        The path of the record.

    Raises:
        ValueError: a value is no finite number, which JSON does not have.
    """
    versions = {"python": platform.python_version(), **{package: version(package) for package in packages}}
    record = {"command": command, "date": datetime.date.today().isoformat(), **versions, **about}
    path(name).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path(name)
