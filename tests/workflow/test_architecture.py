"""The code keeps the rules of the house: floors, no circle, short stages, files and functions of a readable length."""

import ast
from functools import cache
from itertools import pairwise

import pytest

from medunifier.runtime.yaml import read_mapping
from tests.support.paths import REPO

CODE = ("medunifier", "stages", "workflow")
FLOORS = (
    "runtime", "tracking", "storage", "data", "phantom", "vision", "model", "pretraining", "huggingface", "training",
    "metrics", "evaluation", "image_scoring", "synthesis", "results", "report",
)  # fmt: skip  # from the bottom: a folder imports from itself and from those before it
ABOVE_ALL_FLOORS = {"medunifier.stage", "medunifier"}  # what every stage does first; the package's exports
LONGEST_FILE, LONGEST_STAGE, LONGEST_FUNCTION = 350, 160, 60

# Longer on purpose, with the reason. An entry that is no longer needed fails, too.
LONG_FUNCTIONS: dict[str, str] = {}
LONG_FILES: dict[str, str] = {}

FILES = sorted(path for folder in CODE for path in (REPO / folder).rglob("*.py"))


def module_name(path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports_of(module: str) -> frozenset[str]:
    """The modules of CODE that `module` imports anywhere: at the top, in a function, for type hints alone."""
    named = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}, line {node.lineno}: a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            named |= {name if name in MODULES else node.module for name in whole}
    return frozenset(named & set(MODULES))


def floor(module: str) -> str:
    """The folder of the library that a module lies in; '' for a module above all floors."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else ""


def test_every_folder_of_the_library_has_its_floor():
    folders = {
        path.relative_to(REPO / "medunifier").parts[0] for path in (REPO / "medunifier").glob("*/*.py")
    }
    assert folders == set(FLOORS)
    outside = {name for name in MODULES if name.startswith("medunifier") and not floor(name)}
    assert outside == ABOVE_ALL_FLOORS


def test_the_library_imports_downward():
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES
        if (here := floor(module))
        for imported in imports_of(module)
        if imported != "medunifier"  # the package itself exports lazily and imports nothing of the library
        if not floor(imported) or FLOORS.index(floor(imported)) > FLOORS.index(here)
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_nothing_in_the_library_imports_a_stage_or_the_workflow():
    wrong = {
        (module, imported)
        for module in MODULES
        if module.startswith("medunifier")
        for imported in imports_of(module)
        if imported.startswith(("stages", "workflow"))
    }
    assert not wrong


def test_no_stage_imports_another():
    wrong = {
        (module, imported)
        for module in MODULES
        if module.startswith("stages.")
        for imported in imports_of(module)
        if imported.startswith("stages.")
    }
    assert not wrong


def test_no_file_imports_itself_through_others():
    """Imports for type hints count; so does the `__init__.py` of a folder where something is imported from it."""
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        if module in way:
            circle = (*way[way.index(module) :], module)
            pytest.fail(" -> ".join(circle) + f"; broken by any of {[*pairwise(circle)]}")
        if module not in done:
            for imported in sorted(imports_of(module)):
                visit(imported, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_stages_holds_the_stage_files_alone():
    families = set(read_mapping(REPO / "dvc.yaml")["stages"])
    assert len(families) == 15
    found = {path.name for path in (REPO / "stages").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert found == {"__init__.py", *(f"{name}.py" for name in families)}


def lengths(longest, of=FILES):
    counts = {str(path.relative_to(REPO)): len(path.read_text("utf-8").splitlines()) for path in of}
    return {name: count for name, count in counts.items() if count > longest}


def test_stage_files_are_short():
    assert not lengths(LONGEST_STAGE, [path for path in FILES if path.parent.name == "stages"])


def test_files_are_read_in_one_sitting():
    assert lengths(LONGEST_FILE).keys() == LONG_FILES.keys()


def test_functions_fit_a_screen():
    long = {}
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long[f"{module}.{node.name}"] = lines
    assert long.keys() == LONG_FUNCTIONS.keys(), long


OPENERS = {
    "open",
    "read_text",
    "write_text",
    "read_bytes",
    "write_bytes",
    "scan_parquet",
    "read_parquet",
    "mkdir",
}
OPENS_FILES = {"medunifier.metrics.meteor"}  # the program of METEOR, and what it prints


@pytest.mark.parametrize("folder", ["model", "metrics"])
def test_the_model_and_the_metrics_open_no_file(folder):
    opened = {
        f"{module}, line {node.lineno}"
        for module in sorted(set(MODULES) - OPENS_FILES)
        if floor(module) == folder
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call)
        if getattr(node.func, "id", getattr(node.func, "attr", "")) in OPENERS
    }
    assert not opened


@pytest.mark.parametrize(
    ("folder", "foreign"),
    [
        ("model", {"storage", "data", "phantom", "vision"}),
        *((name, {"model", "vision", "pretraining", "huggingface", "training", "evaluation"})
          for name in ("storage", "data", "phantom", "metrics")),
    ],
)  # fmt: skip
def test_the_model_knows_no_data_and_data_know_no_model(folder, foreign):
    wrong = {
        (module, imported)
        for module in MODULES
        if floor(module) == folder
        for imported in imports_of(module)
        if floor(imported) in foreign
    }
    assert not wrong
