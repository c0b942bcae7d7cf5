"""Build an object from parameter sections by the names of its fields."""

from dataclasses import fields
from typing import Any


def matching_fields(cls: type, *sections: object) -> dict[str, Any]:
    """Return the values that parameter sections hold for the fields of a dataclass.

    Args:
        cls: dataclass whose field names are looked up.
        sections: sections of params.yaml. A later section wins; keys that `cls` does not have are left out.

    Returns:
        Keyword arguments for `cls`, by field name.
    """
    names = {field.name for field in fields(cls)}
    return {name: value for section in sections for name, value in vars(section).items() if name in names}
