"""python -m workflow.parameters --write | --check: all that is written from the declarations of the parameters.

The declarations are in medunifier/runtime/sections/, the values in workflow/presets/src/. From them are written the
JSON schema for editors, the presets with their comments, docs/parameters.md, and params.yaml, which is the preset
`demo` until a user copies another or edits it.
"""

import argparse
import json
import sys
from pathlib import Path

from pydantic import ValidationError

from medunifier.runtime.errors import InputError, refuse
from medunifier.runtime.files import write_text
from medunifier.runtime.rules import broken_rules
from medunifier.runtime.schema import json_schema, violations
from medunifier.runtime.sections.whole import Params
from medunifier.runtime.yaml import parse_yaml
from workflow.overlays import Preset, load_preset, presets, source
from workflow.parameter_text import document, preset_text

SCHEMA = Path("workflow/schemas/params.schema.json")
PRESETS = Path("workflow/presets")
DOCUMENT = Path("docs/parameters.md")
SHIPPED = Path("params.yaml")
SHIPPED_PRESET = "demo"


def texts() -> dict[Path, str]:
    """Return the content of every file that is written, by path.

    Raises:
        InputError: A preset breaks a limit or a rule, or its text does not hold its values.
    """
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.yaml",
        **json_schema(Params),
    }
    found = {SCHEMA: json.dumps(schema, indent=2, ensure_ascii=False) + "\n"}
    for preset in presets():
        check_values(preset)
        text = preset_text(preset)
        path = PRESETS / f"{preset.name}.yaml"
        if parse_yaml(text, str(path)) != preset.values:
            raise InputError(f"{path}: its text would not hold the values of {source(preset.name)}")
        found[path] = text
    found[DOCUMENT] = document(load_preset("base"))
    found[SHIPPED] = found[PRESETS / f"{SHIPPED_PRESET}.yaml"]
    return found


def check_values(preset: Preset) -> None:
    """Refuse a preset that `load_params` would refuse, naming its source."""
    try:
        problems = list(broken_rules(Params.model_validate(preset.values)))
    except ValidationError as error:
        problems = violations(error, Params)
    if preset.values.get("preset") != preset.name:
        problems.append(f"preset: must be {preset.name}, as the file is called")
    if problems:
        raise InputError("\n  ".join([f"{source(preset.name)}: wrong value(s):", *problems]))


def outdated(found: dict[Path, str]) -> list[Path]:
    """Return the files that differ from what would be written, and presets that have no source."""
    wrong = [path for path, text in found.items() if not path.exists() or path.read_bytes() != text.encode()]
    return wrong + [path for path in sorted(PRESETS.glob("*.yaml")) if path not in found]


def write(found: dict[Path, str]) -> list[str]:
    """Write what is out of date; return one line for each file. A params.yaml that a user has edited stays."""
    shipped = PRESETS / f"{SHIPPED_PRESET}.yaml"
    ours = not SHIPPED.exists() or SHIPPED.read_bytes() == shipped.read_bytes()
    lines = []
    for path in outdated(found):
        if path not in found:
            lines.append(f"{path}: has no source; remove it, or add {source(path.stem)}")
        elif path == SHIPPED and not ours:
            lines.append(f"{path}: left as it is, for it is no copy of {shipped}: cp {shipped} {path}")
        else:
            write_text(path, found[path])
            lines.append(f"{path}: written")
    return lines


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workflow.parameters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--write", action="store_true", help="bring the files up to date")
    choice.add_argument("--check", action="store_true", help="exit with code 1 if one is out of date")
    arguments = parser.parse_args()
    try:
        found = texts()
        if arguments.write:
            print("\n".join(write(found) or ["nothing to write"]))
            return 0
        wrong = outdated(found)
    except Exception as error:
        return refuse("parameters", error)
    for path in wrong:
        print(f"{path}: out of date: python -m workflow.parameters --write", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
