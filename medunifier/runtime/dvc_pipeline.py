"""dvc.yaml as data, without importing DVC (which takes a second): each stage of the current params.yaml.

Reads what this repository's dvc.yaml uses: `foreach`, `matrix` and `${...}` over params.yaml. A test compares every
stage with DVC's own reading.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medunifier.runtime.errors import InputError
from medunifier.runtime.yaml import read_mapping

PLACEHOLDER = re.compile(r"(?<!\\)\$\{([^}]+)\}")
LARGE_FILE = 64 * 2**20  # bytes; above this a file outside dvc.lock counts by name and size


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml; paths are relative to the repository root."""

    name: str  # FAMILY or FAMILY@VALUE-VALUE
    family: str
    description: str
    command: str
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]  # dotted keys of params.yaml
    outputs: tuple[str, ...]  # outs, metrics and plots


class Pipeline:
    """The stages that a folder's dvc.yaml defines for its params.yaml, in dvc.yaml's order.

    Raises:
        InputError: One of the files is missing, or dvc.yaml names a parameter that does not exist.
    """

    def __init__(self, folder: str | Path = ".") -> None:
        self.folder = Path(folder)
        self.parameters = read_mapping(self.folder / "params.yaml")
        self.stages: dict[str, Stage] = {}
        for family, entry in self._families().items():
            for suffix, scope, body in instances(entry, self.parameters):
                name = family + ("@" + suffix if suffix else "")
                body = fill(body, self.parameters | scope, name)
                self.stages[name] = Stage(
                    name=name,
                    family=family,
                    description=body.get("desc", ""),
                    command=body["cmd"],
                    inputs=tuple(body.get("deps", ())),
                    parameters=tuple(body.get("params", ())),
                    outputs=tuple(
                        path for kind in ("outs", "metrics", "plots") for path in paths(body.get(kind))
                    ),
                )

    def _families(self) -> dict[str, Any]:
        """Return the entries of dvc.yaml; InputError unless each has the form that is read here."""
        path = self.folder / "dvc.yaml"
        stages = read_mapping(path).get("stages")
        if not isinstance(stages, dict):
            raise InputError(f"{path}: expected `stages` at the top; restore it: git checkout dvc.yaml")
        for name, entry in stages.items():
            body = entry.get("do") if isinstance(entry, dict) and "foreach" in entry else entry
            if not isinstance(body, dict) or not isinstance(body.get("cmd"), str):
                raise InputError(f"{path}: {name}: expected a mapping with a text `cmd`")
            for key in ("deps", "params", "outs", "metrics", "plots"):
                if not isinstance(body.get(key, []), list):
                    raise InputError(f"{path}: {name}.{key}: expected a list")
        return stages

    def upstream(self, name: str) -> list[str]:
        """Return the names of the stages on whose outputs stage `name` depends, directly or not, in dvc.yaml's order."""
        found: set[str] = set()
        pending = [name]
        while pending:
            makers = self.makers(pending.pop())
            pending += makers - found
            found |= makers
        return [other for other in self.stages if other in found]

    def makers(self, name: str) -> set[str]:
        """Return the names of the stages that make an input of stage `name`."""
        inputs = self.stages[name].inputs
        return {
            other.name
            for other in self.stages.values()
            if any(overlap(path, output) for path in inputs for output in other.outputs)
        }

    def stage_parameters(self, name: str) -> dict[str, Any]:
        """Return the parameters that dvc.yaml declares for the stage: flat, dotted keys."""
        flat: dict[str, Any] = {}
        for key in self.stages[name].parameters:
            flat |= flatten(look_up(self.parameters, key, name), key)
        return flat

    def signature(self, name: str) -> str:
        """Return a digest of what determines the stage's result: its command, parameters and inputs' content.

        Outputs of other stages count by their hash in dvc.lock; files that no stage makes by their content.
        """
        stage = self.stages[name]
        inputs: dict[str, Any] = {}
        for path in stage.inputs:
            inside = {out: value for out, value in self.locked.items() if (out + "/").startswith(path + "/")}
            inputs[path] = inside or content_digest(self.folder / path)
        return digest({"cmd": stage.command, "params": self.stage_parameters(name), "deps": inputs})

    @cached_property
    def locked(self) -> dict[str, str]:
        """Hash of every output recorded in dvc.lock, by path; empty if nothing is recorded yet."""
        path = self.folder / "dvc.lock"
        if not os.path.lexists(path):
            return {}
        # Another stage's DVC may be writing the file at this moment: DVC does not replace it atomically.
        for _ in range(20):
            try:
                stages = read_mapping(path)["stages"].values()
                return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", ())}
            except (InputError, TypeError, KeyError, AttributeError):
                time.sleep(0.1)
        raise InputError(f"{path}: not readable as YAML; restore it: git checkout dvc.lock")


def instances(entry: Mapping, parameters: Mapping) -> Iterator[tuple[str, dict, Mapping]]:
    """Yield (suffix of the name, values of `key` and `item`, body) for each stage that one entry stands for."""
    if "foreach" in entry:
        values = fill(entry["foreach"], parameters, "foreach")
        pairs = values.items() if isinstance(values, Mapping) else ((value, value) for value in values)
        for key, item in pairs:
            yield str(key), {"key": key, "item": item}, entry["do"]
    elif "matrix" in entry:
        body = {key: value for key, value in entry.items() if key != "matrix"}
        axes = fill(entry["matrix"], parameters, "matrix")  # a mapping stands for its keys
        for values in itertools.product(*axes.values()):
            yield "-".join(map(str, values)), {"item": dict(zip(axes, values, strict=True))}, body
    else:
        yield "", {}, entry


def fill(value: Any, scope: Mapping, where: str) -> Any:
    """Return `value` with every `${a.b}` replaced; a text that is one placeholder takes the value's own type."""
    if isinstance(value, Mapping):
        return {fill(key, scope, where): fill(item, scope, where) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, scope, where) for item in value]
    if not isinstance(value, str):
        return value
    if whole := PLACEHOLDER.fullmatch(value):
        return look_up(scope, whole[1], where)
    filled = PLACEHOLDER.sub(lambda match: in_text(look_up(scope, match[1], where)), value)
    return filled.replace("\\${", "${")


def in_text(value: Any) -> str:
    """Return a value as it stands inside a longer text; a mapping becomes the options of a command, safe in a shell."""
    if not isinstance(value, Mapping):
        return str(value)
    return " ".join(
        f"--{key} {shlex.quote(item) if isinstance(item, str) else item}" for key, item in value.items()
    )


def look_up(tree: Mapping, path: str, where: str) -> Any:
    """Return the value at a dotted path.

    Raises:
        InputError: There is none.
    """
    value: Any = tree
    for part in path.strip().split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InputError(f"dvc.yaml, stage {where}: params.yaml has no key `{path}`")
        value = value[part]
    return value


def paths(entries: list | None) -> list[str]:
    """Return the paths of an `outs`, `metrics` or `plots` list, whose entries may carry options."""
    return [next(iter(entry)) if isinstance(entry, Mapping) else entry for entry in entries or ()]


def overlap(first: str, second: str) -> bool:
    """Return whether the paths are equal or one contains the other."""
    return first == second or first.startswith(second + "/") or second.startswith(first + "/")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as dotted keys; lists stay values."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def content_digest(path: Path) -> str:
    """Return the digest of a file, or of all files of a folder with their names; `missing` if there is neither."""
    if not path.exists():
        return "missing"
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    total = hashlib.sha256()
    for file in files:
        if "__pycache__" in file.parts:
            continue
        total.update(str(file.relative_to(path.parent)).encode())
        size = file.stat().st_size
        total.update(str(size).encode() if size > LARGE_FILE else file.read_bytes())
    return total.hexdigest()
