"""Dated figures in benchmarks/results/."""

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def save(name: str, command: str, about: Mapping[str, Any], packages: Sequence[str] = ("torch",)) -> Path:
    """Write results/NAME-DATE.json: the command, the date, versions of Python and of `packages`, and `about`."""
    date = datetime.date.today().isoformat()
    versions = {"python": platform.python_version(), **{package: version(package) for package in packages}}
    path = RESULTS / f"{name}-{date}.json"
    record = {"command": command, "date": date, **versions, **about}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path
