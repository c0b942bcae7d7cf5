"""The text of presets and of docs/parameters.md, made from the declarations of the parameters."""

import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from medunifier.runtime import rules
from medunifier.runtime.errors import InputError
from medunifier.runtime.schema import allowed, json_schema, part_at
from medunifier.runtime.sections.base import ONE_LINE, Section
from medunifier.runtime.sections.whole import Params
from medunifier.runtime.yaml import parse_yaml
from workflow.overlays import Preset, entry_type, section_type

WIDTH = 120
COLUMN = 30  # where the comments begin
NARROW = 50  # a comment with less room goes above its line
HEAD = """\
yaml-language-server: $schema=workflow/schemas/params.schema.json
Preset `{name}`. {header}

Another preset: cp workflow/presets/NAME.yaml params.yaml. Types, limits and units of all keys: docs/parameters.md.
Edit params.yaml; the files in workflow/presets/ are written: python -m workflow.parameters --write."""
DOCUMENT = """\
# Parameters

Every key of `params.yaml`. An unknown key, a missing one, a value out of its limits and a broken rule are refused
before anything runs, all at once. Defaults are those of `workflow/presets/src/base.yaml`, on which the presets build.
NAME stands for a name that you choose.

This page is written from `medunifier/runtime/sections/`: `python -m workflow.parameters --write`.
"""


def preset_text(preset: Preset) -> str:
    """Return a preset as YAML: every key in the order of the declarations, with its sentence."""
    lines: list[str] = []
    for paragraph in HEAD.format(name=preset.name, header=preset.header).splitlines():
        indent = paragraph[: len(paragraph) - len(paragraph.lstrip())]
        found = textwrap.wrap(paragraph, WIDTH - 2, replace_whitespace=False, subsequent_indent=indent)
        lines += [f"# {line}".rstrip() for line in found or [""]]
    previous: Any = {}
    for key, field in Params.model_fields.items():
        value = preset.values[key]
        if isinstance(value, Mapping | list) or isinstance(previous, Mapping | list):
            lines.append("")
        lines += _entry(key, value, field.annotation, sentence(Params, key), preset.notes)
        previous = value
    return "\n".join(lines) + "\n"


def _entry(
    key: str,
    value: Any,
    kind: Any,
    words: str,
    notes: Mapping[str, str],
    *,
    parent: str = "",
    described: bool = True,
) -> Iterator[str]:
    """Yield the lines of one key: its value or what is inside it.

    `parent` is the dotted path above it. Without `described` only the notes are comments: what is said of the first
    entry of a mapping holds for the others.
    """
    path = f"{parent}.{key}" if parent else key
    indent = "  " * path.count(".")
    comment = " ".join(text for text in (words if described else "", notes.get(path, "")) if text)
    section, entry = section_type(kind), entry_type(kind)
    if not isinstance(value, Mapping) or not value or (section and _in_one_line(section) and not words):
        yield from _commented(f"{indent}{key}: {flow(value)}", comment, indent)
        return
    yield from _commented(f"{indent}{key}:", comment, indent)
    if entry is not None:
        for number, (name, inside) in enumerate(value.items()):
            first = described and number == 0
            yield from _entry(name, inside, entry, "", notes, parent=path, described=first)
    elif section is not None:
        for name, field in section.model_fields.items():
            if name in value:
                text = sentence(section, name)
                inner = field.annotation
                yield from _entry(name, value[name], inner, text, notes, parent=path, described=described)


def _in_one_line(section: type[Section]) -> bool:
    """Whether a section holds nothing but numbers, as the weights of a variant."""
    schema = json_schema(section)
    return all(
        _kinds(part_at(schema, [name])) <= {"number", "integer", "null"} for name in section.model_fields
    )


def _kinds(part: Mapping[str, Any]) -> set[str]:
    kinds = part.get("type", [])
    return {kinds} if isinstance(kinds, str) else set(kinds)


def _commented(line: str, comment: str, indent: str) -> Iterator[str]:
    """Yield a line with its comment at its end, or above it where there is little room."""
    if not comment:
        yield line
        return
    column = max(COLUMN, len(line) + 2)
    if WIDTH - column < NARROW:
        yield from textwrap.wrap(
            comment, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        yield line
        return
    first, *others = textwrap.wrap(comment, WIDTH - column - 2, break_on_hyphens=False)
    yield f"{line:<{column}}# {first}"
    for other in others:
        yield f"{'':<{column}}# {other}"


def sentence(section: type[Section], name: str) -> str:
    """Return what is said of a parameter: its choices and unit where its sentence leaves them out."""
    field = section.model_fields[name]
    if field.description is None:  # a section, described by its own docstring
        inner = section_type(field.annotation)
        return inspect.cleandoc((inner and inner.__doc__) or "").partition("\n")[0]
    text = field.description
    part = part_at(json_schema(section), [name])
    choices = [str(choice) for choice in part.get("enum", ())]
    if len(choices) > 1 and not all(choice in text for choice in choices):
        text = f"{' | '.join(choices)}: {text[0].lower()}{text[1:]}"
    unit = part.get("unit")
    return f"{text.removesuffix('.')}, in {unit}." if unit and unit.lower() not in text.lower() else text


def flow(value: Any, *, inside: bool = False) -> str:
    """Return a value as YAML in one line; `inside` brackets, more texts need quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(item, inside=True)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(item, inside=True) for item in value) + "]"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        return value if _is_plain(value, inside) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _number(value: float) -> str:
    """A float that every YAML reader takes for one: 1.0e-05, not 1e-05."""
    text = repr(value) if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:e}"
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    mantissa = mantissa.rstrip("0")
    return f"{mantissa}0e{int(exponent)}" if mantissa.endswith(".") else f"{mantissa}e{int(exponent)}"


def _is_plain(text: str, inside: bool) -> bool:
    """Whether a text needs no quotes."""
    try:
        content = parse_yaml(f"[{text}]" if inside else f"key: {text}", "text")
        return "#" not in text and content in ([text], {"key": text})
    except InputError:
        return False


def document(base: Preset) -> str:
    """Return docs/parameters.md: a table for each section, and the rules between parameters."""
    parts = [DOCUMENT]
    top = [name for name, field in Params.model_fields.items() if not _has_table(field.annotation)]
    rows = [_row(name, Params, name, base.values[name]) for name in top]
    parts.append(_table("Top level", "", rows))
    for name, field in Params.model_fields.items():
        path, inner, value = name, section_type(field.annotation), base.values[name]
        if inner is None and (inner := section_type(entry_type(field.annotation))) is not None:
            path, value = f"{name}.NAME", next(iter(value.values()))
        if inner is not None:
            parts.append(_table(f"`{name}`", sentence(Params, name), list(_rows(path, inner, value))))
    said = [inspect.getdoc(rule) or "" for rule in rules.RULES]
    parts.append("## Rules between keys\n\n" + "".join(f"* {text}\n" for text in said))
    return "\n".join(parts)


def _has_table(kind: Any) -> bool:
    return section_type(kind) is not None or entry_type(kind) is not None


def _rows(path: str, section: type[Section], value: Any) -> Iterator[str]:
    """Yield the table rows of a section's parameters, those of the sections inside it in their place."""
    for name, field in section.model_fields.items():
        inner = section_type(field.annotation)
        default = value.get(name) if isinstance(value, Mapping) else None
        if inner is None or field.description:
            yield _row(f"{path}.{name}", section, name, default)
        if inner is not None:
            yield from _rows(f"{path}.{name}", inner, default)


def _row(path: str, section: type[Section], name: str, default: Any) -> str:
    """Return one table row: key, type and limits, unit, meaning, default."""
    part, field = part_at(json_schema(section), [name]), section.model_fields[name]
    kind = allowed(_in_words(part)).partition(", with the keys")[0]
    inside = isinstance(default, Mapping) and default  # has rows of its own
    shown = "" if inside or (default is None and not field.is_required()) else f"`{flow(default)}`"
    cells = [f"`{path}`", kind, part.get("unit", ""), field.description or "", shown]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _in_words(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of the schema without patterns that words explain, and without the obvious."""
    short = {key: value for key, value in part.items() if key != "pattern" or "allowed" not in part}
    if short.get("minLength") == 1:
        del short["minLength"]
    if short.get("allowed") == ONE_LINE:
        del short["allowed"]
    return short | ({"items": _in_words(part["items"])} if isinstance(part.get("items"), Mapping) else {})


def _table(title: str, words: str, rows: list[str]) -> str:
    head = ["| Key | Type and limits | Unit | Meaning | Default |", "|---|---|---|---|---|"]
    return "\n".join([f"## {title}", "", *([words, ""] if words else []), *head, *rows, ""])
