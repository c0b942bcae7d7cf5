"""The reader of JSON files that others wrote: config.json and its kind."""

import json
from pathlib import Path
from typing import Any

from medunifier.runtime.errors import InputError


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds one object, {...}.

    Raises:
        InputError: the file is missing, is no JSON, or holds something else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there") from error
    except (OSError, ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise InputError(f"{path}: cannot be read as JSON ({str(error)[:200]})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a JSON {type(found).__name__}; expected an object, {{...}}")
    return found
