"""The one door to transformers' `from_pretrained`: code that lies beside weights is never run."""

import os
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import require_no_pipes
from medunifier.runtime.json_files import read_json_object

LARGEST = 10**8  # any number of config.json: with as many layers or tokens, the model would fill the memory


def load_pretrained(kind: Any, name: str | PathLike[str], **options: Any) -> Any:
    """Load a model, tokenizer, processor or configuration by hub name or folder.

    Without `trust_remote_code=False` transformers asks on the terminal whether to run the Python files that
    config.json names under `auto_map`, and takes a `y` on standard input for consent.

    Args:
        kind: class of transformers with `from_pretrained`.
        name: hub name or folder.
        options: further arguments of `from_pretrained`.

    Raises:
        InputError: the folder holds a pipe or a device, or its config.json a size that no model has.
        OSError: the files are missing or broken.
        ValueError: they can only be loaded by code of their own.
    """
    if os.path.isdir(name):
        require_no_pipes(Path(name))
        _check_sizes(Path(name) / "config.json")
    return kind.from_pretrained(str(name), trust_remote_code=False, **options)


def _check_sizes(path: Path) -> None:
    """Raise InputError if a config.json, where there is one, holds a number that is beyond any model's."""
    if path.exists():
        for key, value in _numbers(read_json_object(path)):
            if abs(value) > LARGEST:
                raise InputError(f"{path}: {key} is {value:g}, beyond any model's; fetch the file again")


def _numbers(tree: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a configuration and of the mappings in it, by their keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int | float):
            yield key, value
