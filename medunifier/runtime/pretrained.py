"""The one door to transformers' `from_pretrained`: code that lies beside weights is never run."""

from os import PathLike
from typing import Any


def load_pretrained(kind: Any, name: str | PathLike[str], **options: Any) -> Any:
    """Load a model, tokenizer, processor or configuration by hub name or folder.

    Without `trust_remote_code=False` transformers asks on the terminal whether to run the Python files that
    config.json names under `auto_map`, and takes a `y` on standard input for consent.

    Args:
        kind: class of transformers with `from_pretrained`.
        name: hub name or folder.
        options: further arguments of `from_pretrained`.

    Raises:
        OSError: the files are missing or broken.
        ValueError: they can only be loaded by code of their own.
    """
    return kind.from_pretrained(str(name), trust_remote_code=False, **options)
