"""Presets as layers: workflow/presets/src/base.yaml and the overlays that say what differs.

An overlay begins with comments, which head the preset, and `extends: NAME`, the layer under it, or `[NAME, NAME]`, a
layer and one that is laid over it. Then
* sections are merged key by key; lists, texts and numbers replace what is below;
* a mapping whose keys users choose (`datasets`, `variants`, `evaluate.finetune`) holds exactly the names that the
  overlay lists, in its order; an entry of a name that the layer below has, too, is merged with that (`NAME: {}`: the
  same);
* a comment after a value is about this value and follows the parameter's own sentence in the preset.
A file whose name begins with `_` is a layer for others and no preset.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from medunifier.runtime.errors import InputError
from medunifier.runtime.sections.base import Section
from medunifier.runtime.sections.whole import Params
from medunifier.runtime.yaml import read_mapping

SOURCES = Path("workflow/presets/src")
LINE = re.compile(r"^(?P<indent> *)(?P<key>[^\s#:][^:#]*):(?:\s(?P<rest>.*))?$")
NOTE = re.compile(r"(?:^|\s)#\s*(?P<note>.*)$")


@dataclass(frozen=True)
class Preset:
    """A preset with all its layers merged."""

    name: str
    header: str  # the overlay's leading comment
    values: dict[str, Any]
    notes: dict[str, str]  # dotted path -> the comment after its value


def presets() -> list[Preset]:
    """Return every preset of SOURCES, by name."""
    names = [path.stem for path in sorted(SOURCES.glob("*.yaml"))]
    return [load_preset(name) for name in names if name != "base" and not name.startswith("_")]


def load_preset(name: str) -> Preset:
    """Return a layer merged with all that it extends.

    Raises:
        InputError: A layer is missing or broken, or they extend each other in a circle.
    """
    values: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for layer in layers_of(name):
        above = read_mapping(source(layer))
        above.pop("extends", None)
        changed = set(leaves(above))
        values = merge(values, above, Params)
        notes = {path: note for path, note in notes.items() if path not in changed}
        notes |= read_notes(source(layer))
    there = set(leaves(values))
    return Preset(name, read_header(source(name)), values, {k: v for k, v in notes.items() if k in there})


def layers_of(name: str, above: tuple[str, ...] = ()) -> list[str]:
    """Return a layer and all under it, the lowest first, each once; `above` are those that led here.

    Raises:
        InputError: A layer is missing or broken, or they extend each other in a circle.
    """
    if name in above:
        raise InputError(f"{source(name)}: extends itself by way of {above[-1]}")
    extends = read_mapping(source(name)).get("extends") or []
    layers: list[str] = []
    for below in [extends] if isinstance(extends, str) else extends:
        layers += [layer for layer in layers_of(str(below), (*above, name)) if layer not in layers]
    return [*layers, name]


def source(layer: str) -> Path:
    """Return the file of a layer."""
    return SOURCES / f"{layer}.yaml"


def merge(below: Any, above: Any, kind: Any) -> Any:
    """Return `above` laid over `below`; `kind` is the type that the sections declare for both."""
    if not isinstance(above, Mapping) or not isinstance(below, Mapping):
        return above
    if (entry := entry_type(kind)) is not None:
        return {name: merge(below.get(name), value, entry) for name, value in above.items()}
    section = section_type(kind)
    types = {name: field.annotation for name, field in section.model_fields.items()} if section else {}
    merged = {key: merge(below.get(key), value, types.get(key)) for key, value in above.items()}
    return {**below, **merged}


def section_type(kind: Any) -> type[Section] | None:
    """Return the section that a type stands for (`X` or `X | None`); None for any other type."""
    if get_origin(kind) is Annotated:
        return section_type(get_args(kind)[0])
    if get_origin(kind) in (UnionType, Union):
        return next((found for choice in get_args(kind) if (found := section_type(choice))), None)
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def entry_type(kind: Any) -> Any | None:
    """Return the type of the entries of a mapping whose keys users choose; None for any other type."""
    return get_args(kind)[1] if get_origin(kind) is Mapping else None


def leaves(tree: Mapping, path: str = "") -> dict[str, Any]:
    """Return every value that is no mapping with entries, by dotted path."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        where = f"{path}{key}"
        if isinstance(value, Mapping) and value:
            found |= leaves(value, f"{where}.")
        else:
            found[where] = value
    return found


def read_header(path: Path) -> str:
    """Return the comment at the head of a layer as one paragraph."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").rstrip())
    return "\n".join(line.removeprefix(" ") for line in lines)


def read_notes(path: Path) -> dict[str, str]:
    """Return the comments after values by dotted path. A layer has one key a line; lists are in brackets."""
    notes: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if (match := LINE.match(line)) is None:
            continue
        indent = len(match["indent"])
        while parents and parents[-1][0] >= indent:
            parents.pop()
        parents.append((indent, match["key"].strip()))
        if found := NOTE.search(match["rest"] or ""):
            notes[".".join(key for _, key in parents)] = found["note"].strip()
    return notes
