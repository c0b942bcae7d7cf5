"""The one door to MLflow: what a stage records about itself."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.errors import InputError


def write_json(path: Path, content: Any) -> None:
    """Writes JSON with sorted keys, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(
        json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
    )
    os.replace(temporary, path)


def finite(values: Mapping[str, float], run_name: str) -> dict[str, float]:
    """`values` as plain ints and floats; InputError names the first that is not a finite number."""
    plain = {}
    for name, value in values.items():
        number = int(value) if isinstance(value, bool) or hasattr(value, "__index__") else float(value)
        if not math.isfinite(number):
            raise InputError(f"metric `{name}` of {run_name} is {number}, not a finite number")
        plain[name] = number
    return plain


class LocalRun:
    """A run without MLflow: keeps what a stage reports and writes `FOLDER/NAME.json`."""

    def __init__(self, name: str, folder: str | Path) -> None:
        self.name = name
        self.metrics_path = Path(folder) / f"{name}.json"
        self.final: dict[str, float] = {}

    def curve(self, step: int, values: Mapping[str, float]) -> None:
        """Records metrics that belong to one step of training."""
        finite(values, self.name)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Adds final metrics; several calls are merged."""
        self.final.update(finite(values, self.name))
        write_json(self.metrics_path, self.final)

    def artifact(self, path: str | Path, folder: str = "") -> None:
        """Records a file (picture, CSV) under `folder`; InputError if it does not exist."""
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file to record as an artifact of {self.name}")

    def params(self, values: Mapping[str, Any]) -> None:
        """Records parameters besides those that dvc.yaml declares for the stage."""

    def say(self, text: str) -> None:
        """Prints one line of progress."""
        print(f"[{self.name}] {text}", flush=True)


class Run(LocalRun):
    """A run that is also tracked by MLflow."""

    @classmethod
    def open(cls, name: str) -> Run:
        return cls(name, "results/metrics")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            write_json(self.metrics_path, self.final)
            write_json(Path("results/runs") / f"{self.name}.json", {"stage": self.name, "run_id": ""})
