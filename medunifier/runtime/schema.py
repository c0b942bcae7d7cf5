"""What a JSON schema refuses, told in one line for each place: the path, the value, what is allowed."""

import json
import math
from collections.abc import Iterator
from pathlib import Path


def schema_violations(raw: object, schema_path: Path) -> Iterator[str]:
    """One line for each place where `raw` breaks the JSON schema."""
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(json.loads(schema_path.read_text(encoding="utf-8")))
    for error in sorted(validator.iter_errors(raw), key=lambda error: [str(part) for part in error.path]):
        where = ".".join(str(part) for part in error.path) or "(top level)"
        known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        if error.validator == "additionalProperties":
            for key in sorted(set(error.instance) - set(known), key=str):
                path = f"{where}.{key}" if error.path else key
                yield f"{path}: unknown key (value {_show(error.instance[key])}); allowed here: {', '.join(known)}"
        elif error.validator == "required":
            key = next(key for key in error.validator_value if error.message.startswith(repr(key)))
            yield f"{where + '.' if error.path else ''}{key}: missing; allowed: {_allowed(known[key])}"
        else:
            yield refused(where, error.instance, _allowed(error.schema))
    yield from _not_finite(raw)


def _not_finite(value: object, path: str = "") -> Iterator[str]:
    """NaN and infinities, which pass every limit of a JSON schema."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{path}: {value} is refused; allowed: a finite number"
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(item, f"{path}.{key}" if path else str(key))


def _allowed(schema: dict) -> str:
    """A schema's type and limits in words."""
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    kinds = schema.get("type", [])
    yaml_words = {"array": "list", "object": "section"}
    words = [yaml_words.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    limits = [
        phrase.format(schema[keyword])
        for keyword, phrase in {
            "minimum": "at least {}",
            "exclusiveMinimum": "above {}",
            "maximum": "at most {}",
            "exclusiveMaximum": "below {}",
            "multipleOf": "a multiple of {}",
            "minLength": "of {} or more characters",
            "pattern": "matching {}",
            "minItems": "of {} or more entries",
            "maxItems": "of {} or fewer entries",
            "minProperties": "with {} or more entries",
            "uniqueItems": "without repeats",
        }.items()
        if keyword in schema
    ]
    if "list" in words and isinstance(schema.get("items"), dict):
        limits.append(f"each: {_allowed(schema['items'])}")
    if "section" in words and "properties" in schema:
        limits.append(f"with the keys {', '.join(schema['properties'])}")
    return ", ".join([" or ".join(words), *limits])


def _show(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def refused(path: str, value: object, allowed: str) -> str:
    """The line that tells of one refused value."""
    return f"{path}: {_show(value)} is refused; allowed: {allowed}"
