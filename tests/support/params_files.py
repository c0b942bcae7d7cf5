"""Copies of presets with other values, and the message with which one is refused."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from medunifier.runtime.errors import InputError
from medunifier.runtime.params import load_params
from tests.support.paths import REPO


def edited(tmp_path: Path, changes: dict[str, Any], preset: str = "demo") -> Path:
    """A copy of a preset with other values at dotted paths; `KeyError` as a value takes the key away."""
    yaml = YAML(typ="safe")
    tree = yaml.load(REPO / f"workflow/presets/{preset}.yaml")
    for path, value in changes.items():
        *parents, key = path.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        if value is KeyError:
            del node[key]
        else:
            node[key] = value
    copy = tmp_path / "params.yaml"
    yaml.dump(tree, copy)
    return copy


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_params(path)
    return str(caught.value)
