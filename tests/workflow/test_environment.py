"""pyproject.toml, requirements*.txt and environment.yml describe one environment."""

import ast
import re
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

from tests.support.paths import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(text) for text in (*PROJECT["dependencies"], *EXTRAS["dev"])]
CLINICAL = [Requirement(text) for text in EXTRAS["clinical"]]
PINS_FILE = (REPO / "requirements.txt").read_text()
CLINICAL_FILE = (REPO / "requirements-clinical.txt").read_text()
ENVIRONMENT = YAML(typ="safe").load(REPO / "environment.yml")["dependencies"]


def pins(file: str = PINS_FILE) -> dict[str, list[Version]]:
    """The versions pinned for each package; several where they differ by Python version or platform."""
    found: dict[str, list[Version]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", file, re.MULTILINE):
        found.setdefault(canonicalize_name(name), []).append(Version(version))
    return found


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_each_direct_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    versions = pins().get(canonicalize_name(requirement.name))
    assert versions, f"requirements.txt lacks {requirement.name}: run `make lock`"
    for version in versions:
        assert version in requirement.specifier, f"{requirement} but pinned {version}: run `make lock`"


def test_the_extra_adds_to_the_pins_and_changes_none() -> None:
    ours, theirs = pins(), pins(CLINICAL_FILE)
    for requirement in CLINICAL:
        name = canonicalize_name(requirement.name)
        assert theirs[name] and all(version in requirement.specifier for version in theirs[name])
        assert name not in ours, "the set-up does not grow"
    assert not {name for name in ours.keys() & theirs if not set(theirs[name]) <= set(ours[name])}
    assert {"torch", "transformers", "numpy"} <= theirs.keys()


@pytest.mark.parametrize("file", [PINS_FILE, CLINICAL_FILE], ids=["set-up", "clinical"])
def test_every_pin_has_a_hash(file: str) -> None:
    blocks = re.split(r"\n(?=[A-Za-z])", file.split("\n", 2)[2])
    assert len(blocks) > 100
    assert all("==" in block and "--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("file", [PINS_FILE, CLINICAL_FILE], ids=["set-up", "clinical"])
def test_pins_name_no_host_and_no_path(file: str) -> None:
    assert not re.search(r"https?://|file:|--index|--extra|--find-links|^-e|^/|@ ", file, re.MULTILINE)


def test_conda_users_get_the_same_packages() -> None:
    pip_section = next(entry["pip"] for entry in ENVIRONMENT if isinstance(entry, dict))
    assert pip_section == ["--requirement requirements.txt"]
    own = {re.split(r"[ =<>]", entry)[0] for entry in ENVIRONMENT if isinstance(entry, str)}
    assert own == {"python", "openjdk", "git", "make", "pip"}, (
        "Python packages come from requirements.txt alone"
    )


def test_conda_python_is_one_that_the_project_takes() -> None:
    python = next(entry for entry in ENVIRONMENT if isinstance(entry, str) and entry.startswith("python "))
    conda, project = Requirement(python.replace(" ", "")), Requirement("python" + PROJECT["requires-python"])
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15"):
        assert (Version(version) in conda.specifier) == (Version(version) in project.specifier)


def imported_modules() -> set[str]:
    """Top-level modules that the code imports."""
    names = set()
    for folder in ("medunifier", "stages", "workflow", "tests", "benchmarks", "examples"):
        for path in (REPO / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module.partition(".")[0])
    return names


@pytest.mark.slow
def test_what_the_code_imports_is_declared() -> None:
    """Against the packages that are installed: each imported module belongs to a direct dependency."""
    declared = {canonicalize_name(requirement.name) for requirement in (*DIRECT, *CLINICAL)} | {
        PROJECT["name"],
        "pydantic-core",
    }
    owners = packages_distributions()
    missing = {
        module: owners[module]
        for module in imported_modules() & set(owners)
        if not declared & {canonicalize_name(package) for package in owners[module]}
    }
    assert not missing, "add the packages to pyproject.toml, then run `make lock`"


def test_public_continuous_integration_runs_the_oldest_and_the_newest_python() -> None:
    workflow = YAML(typ="safe").load(REPO / ".github/workflows/tests.yml")
    supported = Requirement("python" + PROJECT["requires-python"]).specifier
    admitted = [f"3.{minor}" for minor in range(8, 30) if Version(f"3.{minor}") in supported]
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == [admitted[0], admitted[-1]]
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert {step["run"] for step in steps if "run" in step} == {"make lint", "make test"}
    assert all(re.fullmatch(r"[\w/-]+@v\d+", step["uses"]) for step in steps if "uses" in step)


def test_public_continuous_integration_runs_targets_that_exist() -> None:
    targets = re.search(r"^\.PHONY: (.*)", (REPO / "Makefile").read_text(), re.MULTILINE)[1].split()
    for path in (REPO / ".github/workflows").glob("*.yml"):
        jobs = YAML(typ="safe").load(path)["jobs"].values()
        run = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
        made = [target for command in run for target in re.findall(r"\bmake ([\w-]+)$", command)]
        assert made and set(made) <= set(targets), path.name


def test_hooks_before_a_commit_run_what_lint_runs() -> None:
    hooks = YAML(typ="safe").load(REPO / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (REPO / "Makefile").read_text(), re.MULTILINE)[1]
    for hook in hooks:
        program = " ".join(hook["entry"].split()[: 3 if hook["entry"].startswith("python") else 1])
        assert program in lint, hook["id"]
    assert len(hooks) >= 8


def test_the_citation_names_the_licence_and_the_version() -> None:
    citation = YAML(typ="safe").load(REPO / "CITATION.cff")
    assert citation["license"] == PROJECT["license"]
    assert citation["version"] == PROJECT["version"]
    assert "Apache License" in (REPO / "LICENSE").read_text()
