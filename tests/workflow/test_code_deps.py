"""The code dependencies in dvc.yaml are what each stage imports.

A change of code runs exactly the stages it can change, and no stage keeps results that other code made.
"""

from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from medunifier.data.layouts import LAYOUTS
from medunifier.runtime.yaml import read_mapping
from tests.support.paths import REPO
from workflow import code_deps

FAMILIES = {name: entry.get("do", entry) for name, entry in read_mapping(REPO / "dvc.yaml")["stages"].items()}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(REPO)


def listed(family: str, layout: str = "") -> set[str]:
    """The files of code that a family depends on by dvc.yaml."""
    files = set()
    for entry in FAMILIES[family]["deps"]:
        path = Path(entry.replace("${item.layout}", layout))
        if path.parts[0] in code_deps.CODE:
            files |= {str(file) for file in (path.rglob("*.py") if path.is_dir() else [path])}
    return files


def imported(*files: str) -> set[str]:
    """The files that Python's own module finder meets, without those on which no result depends."""
    finder = ModuleFinder(path=[str(REPO)])
    for file in files:
        finder.load_file(str(REPO / file))
    paths = {Path(m.__file__).relative_to(REPO) for m in finder.modules.values() if m.__file__}
    kept = {path for path in paths if path.parts[0] in code_deps.CODE and not code_deps.is_apart(path)}
    return {str(path) for path in kept if code_deps.has_code(REPO / path)} | set(files)


def test_dvc_yaml_is_up_to_date():
    text = (REPO / "dvc.yaml").read_text(encoding="utf-8")
    assert code_deps.rewritten(text) == text, "python -m workflow.code_deps --write"


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "prepare"])
def test_a_stage_depends_on_all_that_it_imports(family):
    assert imported(f"stages/{family}.py") - listed(family) == set()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prepare_depends_on_all_that_its_layout_imports(layout):
    expected = imported("stages/prepare.py", f"medunifier/data/layouts/{layout}.py")
    assert expected - listed("prepare", layout) == set()


@pytest.mark.parametrize("family", code_deps.DEAR)
def test_what_is_dear_to_run_again_depends_on_no_code_that_it_does_not_import(family):
    code = {file for file in listed(family) if code_deps.has_code(Path(file))}
    assert code - imported(f"stages/{family}.py") == set()


def test_a_new_import_is_added_and_a_removed_one_taken_out(tmp_path, monkeypatch):
    """A toy: stage s imports a, which imports b inside a function; c is in their folder and unused."""
    for path, text in {
        "stages/s.py": "from medunifier.part import a\n",
        "medunifier/part/__init__.py": '"""A docstring is no code."""\n',
        "medunifier/part/a.py": "def f():\n    from medunifier.part.b import g\n    return g\n",
        "medunifier/part/b.py": "from medunifier.runtime.errors import InputError\ng = 1\n",
        "medunifier/part/c.py": "x = 1\n",
        "medunifier/part/d.py": "y = 1\n",
        "medunifier/part/e.py": "z = 1\n",
        "medunifier/runtime/errors.py": "class InputError(Exception): ...\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    before = "stages:\n\n  s:\n    cmd: x\n    deps:\n      - medunifier/part/c.py\n      - data/raw\n"
    code_deps.imports.cache_clear()
    code_deps.has_code.cache_clear()
    try:
        assert code_deps.rewritten(before) == (
            "stages:\n\n  s:\n    cmd: x\n    deps:\n      - stages/s.py\n      - medunifier/part/a.py\n"
            "      - medunifier/part/b.py\n      - data/raw\n"
        )
    finally:
        code_deps.imports.cache_clear()
        code_deps.has_code.cache_clear()
