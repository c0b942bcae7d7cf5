"""Zero-shot classes as prompts, read from a YAML file (workflow/zero_shot_prompts.yaml or a user's own)."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medunifier.runtime.errors import InputError
from medunifier.runtime.yaml import read_yaml
from medunifier.storage.tables import LABEL_PREFIX

PARTS = ("severity", "subtype", "location")


@dataclass(frozen=True)
class ClassPrompts:
    """One class: its prompts, and the values that an image of the class has in the prepared table."""

    name: str
    prompts: tuple[str, ...]
    where: Mapping[str, Any]

    def draw(self, number: int | None, seed: int) -> list[str]:
        """Draw `number` different prompts by `seed`, in the file's order; all if it is None or too large.

        The draw does not depend on the other classes.
        """
        if number is None or number >= len(self.prompts):
            return list(self.prompts)
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        return [self.prompts[i] for i in np.sort(rng.permutation(len(self.prompts))[:number])]


@dataclass(frozen=True)
class PromptFile:
    """Content of a prompt file: which images are classified (`benchmark` or `test`), and the classes."""

    path: Path
    items: str
    classes: dict[str, ClassPrompts]


def read_prompts(path: str | Path) -> PromptFile:
    """Read and check a prompt file.

    Raises:
        InputError: Names the class and key that are wrong, and what is expected.
    """
    path = Path(path)
    content = read_yaml(path, missing="zero_shot.prompts in params.yaml names the file")
    if not isinstance(content, dict) or not isinstance(content.get("classes"), dict):
        raise InputError(
            f"{path}: expected the keys `items` and `classes`, as in workflow/zero_shot_prompts.yaml"
        )
    unknown = set(content) - {"version", "items", "classes"}
    if unknown or content.get("items") not in ("benchmark", "test"):
        raise InputError(
            f"{path}: items is {content.get('items')!r}, expected benchmark | test; "
            f"unknown keys: {', '.join(map(str, sorted(unknown, key=str))) or 'none'}"
        )
    if len(content["classes"]) < 2:
        raise InputError(f"{path}: {len(content['classes'])} classes; at least 2 are needed")
    classes = {str(name): _read_class(path, str(name), entry) for name, entry in content["classes"].items()}
    return PromptFile(path, content["items"], classes)


def _read_class(path: Path, name: str, entry: Any) -> ClassPrompts:
    where = f"{path}: classes.{name}"
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected `prompts`, or {', '.join(PARTS)}")
    keys = set(entry) - {"where"}
    if keys not in ({"prompts"}, set(PARTS)):
        raise InputError(
            f"{where}: has {', '.join(sorted(map(str, keys))) or 'nothing'}; expected `prompts`, or {', '.join(PARTS)}"
        )
    for key in keys:
        texts = entry[key]
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{where}.{key}: expected a list of texts, with at least one entry")
    if "prompts" in entry:
        combined = entry["prompts"]
    else:
        combined = [
            " ".join(filter(None, words)) for words in itertools.product(*(entry[part] for part in PARTS))
        ]
    prompts = tuple(dict.fromkeys(" ".join(text.split()) for text in combined if text.strip()))
    if not prompts:
        raise InputError(f"{where}: all its prompts are empty")
    condition = entry.get("where", {f"{LABEL_PREFIX}{name}": 1})
    if not isinstance(condition, dict) or not condition:
        raise InputError(f"{where}.where: expected columns of the prepared table with their values")
    return ClassPrompts(name, prompts, condition)
