"""The JSON schema of a pydantic model, and what the model refuses in one line for each place."""

import functools
import json
from typing import Any

from pydantic import BaseModel, ValidationError

LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "pattern": "matching {}",
    "minItems": "of {} or more entries",
    "maxItems": "of {} or fewer entries",
    "minProperties": "with {} or more entries",
    "uniqueItems": "without repeats",
}
KEYS = 5  # of a section, named where it is missing: docs/parameters.md has all of them
YAML_WORDS = {"array": "list", "object": "section"}
# What pydantic writes where a check stands around a type -> the standard's keyword
KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
LIST_KEYWORDS = {"minLength": "minItems", "maxLength": "maxItems"}
A_LIST, A_SECTION = "a list", "a section"  # tags of the types that a value may have; no key is called so
SHOWN = 80  # characters of a refused value


@functools.cache  # a description of one parameter asks for its section's schema again
def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a model, in the short form that people write.

    Beside the standard's keywords, `unit` holds a value's unit and `allowed` what is allowed in words. All callers
    get the same dictionary: it is to be read only.
    """
    return _tidied(model.model_json_schema())


def _tidied(schema: Any) -> Any:
    """Drop generated titles, and say in one way what pydantic says in several."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    words = KEYWORDS | (LIST_KEYWORDS if schema.get("type") == "array" else {})
    tidy = {
        words.get(key, key): {name: _tidied(item) for name, item in value.items()}
        if key in ("properties", "$defs")
        else _tidied(value)
        for key, value in schema.items()
        if key != "title"
    }
    if "oneOf" in tidy:
        tidy["anyOf"] = tidy.pop("oneOf")
    if "const" in tidy:
        tidy["enum"] = [tidy.pop("const")]
    if "patternProperties" in tidy:  # names that users choose
        ((pattern, tidy["additionalProperties"]),) = tidy.pop("patternProperties").items()
        tidy["propertyNames"] = {"type": "string", "pattern": pattern} | tidy.get("propertyNames", {})
    choices = tidy.get("anyOf", [])
    if (
        len(choices) == 2
        and choices[1] == {"type": "null"}
        and "type" in choices[0]
        and "enum" not in choices[0]
    ):
        del tidy["anyOf"]
        tidy = choices[0] | {"type": [choices[0]["type"], "null"]} | tidy
    return tidy


def violations(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line for each place that `model` refused: the path, the value and what is allowed, by path."""
    schema = json_schema(model)
    lines: dict[str, str] = {}
    for found in sorted(
        error.errors(include_url=False), key=lambda found: [str(part) for part in found["loc"]]
    ):
        loc = [step for step in found["loc"] if step not in (A_LIST, A_SECTION)]
        *parents, last = loc or ("",)
        path = ".".join(map(str, loc)) or "(top level)"
        kind = found["type"]
        if kind in ("extra_forbidden", "invalid_key"):
            value = "" if kind == "invalid_key" else f" (value {show(found['input'])})"
            known = ", ".join(part_at(schema, parents).get("properties", {}))
            lines[path] = f"{path}: unknown key{value}; allowed here: {known}"
        elif kind == "missing":
            lines[path] = f"{path}: missing; allowed: {allowed(part_at(schema, loc))}"
        elif last == "[key]":  # of a mapping whose keys users choose
            where = ".".join(map(str, parents[:-1]))
            names = _resolved(schema, part_at(schema, parents[:-1])).get("propertyNames", {"type": "string"})
            lines[path] = refused(where, found["input"], allowed(names))
        elif kind == "finite_number":
            lines[path] = f"{path}: {found['input']} is refused; allowed: a finite number"
        else:
            lines[path] = refused(path, found["input"], allowed(part_at(schema, loc)))
    return list(lines.values())


def part_at(schema: dict, loc: Any) -> dict:
    """Return the part of a JSON schema that describes what lies at a path of keys."""
    part = _resolved(schema, schema)
    for step in loc:
        inside = part.get("properties", {}).get(step) or part.get("items") or part.get("additionalProperties")
        part = _resolved(schema, inside if isinstance(inside, dict) else {})
    return part


def _resolved(schema: dict, part: dict) -> dict:
    """A part of a JSON schema with the definition that it names in its place; of alternatives, all keys."""
    if "anyOf" in part:
        choices = [_resolved(schema, choice) for choice in part["anyOf"]]
        kinds = [kind for choice in choices for kind in [choice.get("type")] if kind]
        merged = {key: value for choice in reversed(choices) for key, value in choice.items()}
        return merged | {key: value for key, value in part.items() if key != "anyOf"} | {"type": kinds}
    if "$ref" in part:
        name = part["$ref"].rsplit("/", 1)[1]
        return schema["$defs"][name] | {key: value for key, value in part.items() if key != "$ref"}
    return part


def allowed(schema: dict) -> str:
    """Return a JSON schema's type and limits in words."""
    nullable = isinstance(schema.get("type"), list) and "null" in schema["type"]
    if "enum" in schema:
        return " | ".join([*map(str, schema["enum"]), *(["null"] if nullable else [])])
    kinds = schema.get("type", [])
    words = [YAML_WORDS.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    limits = [phrase.format(schema[key]) for key, phrase in LIMITS.items() if key in schema]
    if "list" in words and isinstance(schema.get("items"), dict):
        limits.append(f"each: {allowed(schema['items'])}")
    if "section" in words and "properties" in schema:
        keys = list(schema["properties"])
        more = f" and {len(keys) - KEYS} more" if len(keys) > KEYS else ""
        limits.append(f"with the keys {', '.join(keys[:KEYS])}{more}")
    if schema.get("minLength", 0) > 0:
        limits.append(f"of {schema['minLength']} or more characters")
    if schema.get("maxLength", 4096) < 4096:
        limits.append(f"of {schema['maxLength']} or fewer characters")
    text = ", ".join([" or ".join(words), *limits])
    return f"{text} ({schema['allowed']})" if "allowed" in schema else text


def show(value: object) -> str:
    """Return a value as JSON, cut short."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def refused(path: str, value: object, what: str) -> str:
    """Return the line that reports one refused value."""
    return f"{path}: {show(value)} is refused; allowed: {what}"
