"""python -m workflow.code_deps --write | --check: a stage's code dependencies in dvc.yaml, from its imports.

A stage depends on its own file and on every file of the library that it imports, directly or not, without those in
APART, on which no result depends. Where a stage uses all the files of a folder the folder is listed, and where it
is cheap to run again (not in DEAR) a folder of which it uses half: dvc.yaml is meant to be read.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from functools import cache
from pathlib import Path

DVC_YAML = Path("dvc.yaml")
CODE = ("stages", "medunifier")  # the folders whose files are code dependencies
# How a stage starts, reads parameters (DVC knows their values), writes files atomically and records itself.
APART = ("medunifier/__init__.py", "medunifier/stage.py", "medunifier/runtime", "medunifier/tracking")
# These train, decode or encode whole data sets: they run again only for files that they import.
DEAR = ("decode_images", "extract_features", "pretrain", "train_prior", "finetune", "generate_images")
LAYOUTS = "medunifier/data/layouts"  # the registry there imports by name the layout that a data set asks for
CHOSEN_LAYOUT = LAYOUTS + "/${item.layout}.py"
CODE_LINE = re.compile(r"^( +)- (?:stages|medunifier)/\S+\n", re.MULTILINE)


@cache
def imports(file: Path) -> frozenset[Path]:
    """The files of CODE that `file` imports, anywhere in it; packages' `__init__.py` included."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise SystemExit(f"{file}:{node.lineno}: relative import; write the whole name")
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] in CODE:
                for depth in range(1, len(parts) + 1):
                    path = Path(*parts[:depth])
                    found |= {f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()}
    return frozenset(found)


def used_by(*files: Path) -> set[Path]:
    """All that these files import, directly or not, and themselves, but for APART and files without code."""
    seen: set[Path] = set()
    pending = list(files)
    while pending:
        file = pending.pop()
        if file not in seen:
            seen.add(file)
            pending += imports(file)
    return {file for file in seen if has_code(file) and not is_apart(file)}


@cache
def has_code(file: Path) -> bool:
    """Whether `file` holds a statement besides its docstring."""
    body = ast.parse(file.read_text(encoding="utf-8"), str(file)).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def is_apart(file: Path) -> bool:
    """Return whether no result depends on `file`."""
    return any(str(file) == name or str(file).startswith(name + "/") for name in APART)


def code_of(family: str) -> list[str]:
    """The code dependencies of a stage family, as dvc.yaml lists them: its own file first."""
    stage = Path(f"stages/{family}.py")
    layouts = [file for file in Path(LAYOUTS).glob("*.py") if file.name != "__init__.py"]
    used = used_by(stage)
    chosen: list[str] = []
    if family == "prepare":  # reads one layout, whose name is a parameter
        used = used_by(stage, *layouts) - set(layouts)
        chosen = [CHOSEN_LAYOUT]
    return [str(stage), *sorted(chosen + folded(used - {stage}, exact=family in DEAR))]


def folded(used: set[Path], exact: bool) -> list[str]:
    """Files, and folders in place of theirs where all of a folder (`exact`) or half of it is used."""
    names: list[str] = []
    for folder in {file.parent for file in used}:
        mine = {file for file in used if file.parent == folder}
        there = {file for file in folder.glob("*.py") if has_code(file)}
        whole = not any(child.is_dir() and any(child.glob("*.py")) for child in folder.iterdir())
        if whole and len(mine) > 1 and len(mine) >= len(there) * (1.0 if exact else 0.5):
            names.append(str(folder))
        else:
            names += map(str, mine)
    return names


def rewritten(text: str) -> str:
    """dvc.yaml with the code part of every stage's `deps` replaced; the rest stays to the letter."""
    head, *entries = re.split(r"^(?=  \w+:\n)", text, flags=re.MULTILINE)
    done = [head]
    for entry in entries:
        family = entry.split(":", 1)[0].strip()
        match = re.search(r"^( +)deps:\n", entry, re.MULTILINE)
        if match is None:
            raise SystemExit(f"{DVC_YAML}: stage {family} has no `deps:` on a line of its own")
        lines = "".join(f"{match[1]}  - {name}\n" for name in code_of(family))
        done.append(entry[: match.end()] + lines + CODE_LINE.sub("", entry[match.end() :]))
    return "".join(done)


def main() -> None:
    """Write or check the code dependencies."""
    parser = argparse.ArgumentParser(prog="python -m workflow.code_deps", description=__doc__)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--write", action="store_true", help="bring dvc.yaml up to date")
    choice.add_argument("--check", action="store_true", help="exit with code 1 if dvc.yaml is out of date")
    arguments = parser.parse_args()
    before = DVC_YAML.read_text(encoding="utf-8")
    after = rewritten(before)
    if arguments.write:
        DVC_YAML.write_text(after, encoding="utf-8")
    elif before != after:
        sys.exit(
            f"{DVC_YAML}: code dependencies differ from what the stages import: python -m workflow.code_deps --write"
        )


if __name__ == "__main__":
    main()
