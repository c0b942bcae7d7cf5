"""The readers of JSON files: config.json and its kind, which others wrote, and the metrics of stages."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import regular_file


def read_json_object(path: str | Path, advice: str = "fetch it again") -> dict[str, Any]:
    """Read a JSON file that holds one object, {...}.

    Args:
        path: of the file.
        advice: what to do if it is missing or broken, for the message.

    Raises:
        InputError: the file is missing, is no JSON, or holds something else.
    """
    regular_file(path, advice)
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise InputError(f"{path}: cannot be read as JSON ({str(error)[:200]}); {advice}") from error
    if not isinstance(found, dict):
        raise InputError(
            f"{path}: holds a JSON {type(found).__name__}; expected an object, {{...}}; {advice}"
        )
    return found


def read_numbers(path: str | Path, advice: str) -> Mapping[str, float]:
    """Read the metrics of a stage: a JSON object of finite numbers; arguments as for `read_json_object`.

    Raises:
        InputError: as there, or a value is something else.
    """
    numbers = read_json_object(path, advice)
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{path}: {name!r} is {value!r}; expected a finite number; {advice}")
    return numbers
