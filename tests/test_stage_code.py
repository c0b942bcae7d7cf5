"""What dvc.yaml says of a stage's code is what the stage imports: a change of code runs exactly the stages it can
change, and no stage keeps results that other code made."""

import ast
from pathlib import Path

import pytest

from stages.datasets import LAYOUTS
from stages.pipeline import read_yaml

# No result depends on these: how a stage starts, parameters (DVC knows their values), tracking, atomic writing.
APART = {
    *("stages/entry.py", "stages/errors.py", "stages/params.py", "stages/schema.py", "stages/pipeline.py"),
    *("stages/cores.py", "stages/launch.py", "stages/storage/files.py"),
    *(str(path) for path in Path("stages/tracking").glob("*.py")),
}
# In a folder that summarize lists whole, this is not imported by it: fine-tuning's curves.
BESIDE = {"stages/report/curves.py"}
FAMILIES = {name: entry.get("do", entry) for name, entry in read_yaml(Path("dvc.yaml"))["stages"].items()}


def imported(module: Path) -> set[Path]:
    """The files of stages/ that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            path = Path(*name.split("."))
            found |= {file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()}
    return {file for file in found if file.parts[0] == "stages"}


def code_of(*modules: str) -> set[str]:
    """All that these files import, directly or not, themselves included, without APART and empty files."""
    seen, todo = set(), [Path(module) for module in modules]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += imported(module)
    return {str(file) for file in seen if file.read_text(encoding="utf-8").strip()} - APART


def listed(family: str, layout: str = "") -> set[str]:
    """The files of stages/ that a family depends on by dvc.yaml."""
    files = set()
    for entry in FAMILIES[family]["deps"]:
        path = Path(entry.replace("${item.layout}", layout))
        if path.parts[0] == "stages":
            files |= {str(file) for file in (path.rglob("*.py") if path.is_dir() else [path])}
    return {file for file in files if Path(file).read_text(encoding="utf-8").strip()}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "prepare"])
def test_a_stage_depends_on_what_it_imports(family):
    expected = code_of(f"stages/{family}.py")
    assert expected - listed(family) == set(), "add these to its deps in dvc.yaml"
    assert listed(family) - expected - BESIDE == set(), "it does not import these: take them out of dvc.yaml"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prepare_depends_on_what_its_adapter_imports_too(layout):
    expected = code_of("stages/prepare.py", f"stages/datasets/{layout}.py")
    assert expected - listed("prepare", layout) == set(), "add these to its deps in dvc.yaml"


def test_prepare_depends_on_nothing_that_no_adapter_imports():
    expected = code_of("stages/prepare.py", *(f"stages/datasets/{layout}.py" for layout in LAYOUTS))
    assert {file for layout in LAYOUTS for file in listed("prepare", layout)} == expected
