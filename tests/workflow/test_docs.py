"""The documentation says what is so: paths, commands, targets, messages, parameters and examples exist as named."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from medunifier.data.preparation.rejects import Reason
from tests.support.paths import REPO

PAGES = sorted([REPO / "README.md", REPO / "CONTRIBUTING.md", *(REPO / "docs").rglob("*.md")])
CODE = {"stages", "medunifier", "workflow", "benchmarks", "examples"}
MADE_BY_RUNNING = re.compile(
    r"(data|models|results|site|generated|dvc_plots|\.state|\.venv|mlflow\.db|mlruns)(/|$)|workflow/site\.yaml$"
)
PATH = re.compile(
    r"(?<![\w/])(?:medunifier|stages|workflow|tests|benchmarks|docs|examples|\.ci|\.github)(?:/[\w.*{},-]+)+/?"
)
TOP_FILES = re.compile(r"`([\w.-]+\.(?:md|yaml|yml|toml|txt|cff)|Makefile|Snakefile|LICENSE|dvc\.lock)`")
TARGETS = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text("utf-8"), re.MULTILINE))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def page_id(page: Path) -> str:
    return str(page.relative_to(REPO))


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


@every_page
def test_paths_named_are_there(page):
    named = {path.rstrip(".,") for path in PATH.findall(text_of(page))}
    missing = {
        path
        for path in named
        if not MADE_BY_RUNNING.match(path) and path not in MADE_IN_EXAMPLES and not exists(path)
    }
    assert not missing


MADE_IN_EXAMPLES = {  # files that a worked example tells the reader to write
    "medunifier/data/layouts/hospital.py",
    "stages/describe_reports.py",
    "workflow/presets/hospital.yaml",
}


def exists(path: str) -> bool:
    """Whether `path`, which may hold `*` or `{a,b}`, or end in a NAME in capitals, names something here."""
    alternatives = [path]
    if braces := re.search(r"\{([^}]+)\}", path):
        alternatives = [path.replace(braces[0], part) for part in braces[1].split(",")]
    return all(any(REPO.glob(re.sub(r"[A-Z]{3,}", "*", part.rstrip("/")))) for part in alternatives)


@every_page
def test_functions_named_are_there(page):
    """`path/to/file.py::name` names a function or class of that file."""
    for path, name in re.findall(r"`([\w/]+\.py)::(\w+)`", text_of(page)):
        defined = {
            node.name
            for node in ast.walk(ast.parse((REPO / path).read_text("utf-8")))
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        assert name in defined, f"{path}::{name}"


@every_page
def test_files_named_at_the_top_are_there(page):
    """A name without a folder is a file at the top, beside the page, or one that the reader's own run makes."""
    own = {
        "train.txt", "val.txt", "test.txt", "train_val_list.txt", "test_list.txt",
        "dvc.lock", "model.safetensors", "studies.csv", "rejected.parquet", "SHA256SUMS.txt",
    }  # fmt: skip
    missing = {
        name
        for name in TOP_FILES.findall(text_of(page))
        if name not in own and not (REPO / name).exists() and not any(REPO.glob(f"*/**/{name}"))
    }
    assert not missing


@every_page
def test_modules_started_are_there(page):
    for module in re.findall(r"python -m ([a-z_]+(?:\.[a-z_]+)*)(?![\w.])", text_of(page)):
        parts = module.split(".")
        if parts[0] not in CODE or f"{'/'.join(parts)}.py" in MADE_IN_EXAMPLES:
            continue
        path = REPO.joinpath(*parts)
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


@every_page
def test_make_targets_named_are_there(page):
    named = re.findall(r"(?:`|^|\s)make ([a-z-]+)(?=`|\s|$)", code_of(page), re.MULTILINE)
    assert set(named) <= TARGETS


def code_of(page: Path) -> str:
    """Code blocks and inline code of a page, where a command is a command and no word of a sentence."""
    text = text_of(page)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return "\n".join([*blocks, *inline])


@every_page
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(page)):
        assert (page.parent / target).exists(), target


def test_every_page_is_in_the_navigation_and_the_overview():
    config = text_of(REPO / "mkdocs.yml")
    listed = set(re.findall(r": ([\w/-]+\.md)$", config, re.MULTILINE))
    pages = {str(page.relative_to(REPO / "docs")) for page in (REPO / "docs").rglob("*.md")}
    assert listed == pages
    overview = text_of(REPO / "docs/index.md")
    assert {page for page in pages if f"({page})" not in overview} == {"index.md"}


def test_every_reason_for_a_rejection_is_explained():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text_of(REPO / "docs/data.md"), re.MULTILINE))
    assert {r.value: r.explanation for r in Reason}.items() <= rows.items()


def test_every_layout_is_listed():
    from medunifier.data.layouts import LAYOUTS

    listed = re.findall(r"^\| `(\w+)` \| .+ \| .+ \| .+ \|$", text_of(REPO / "docs/data.md"), re.MULTILINE)
    assert set(LAYOUTS) <= set(listed)


def test_presets_are_listed():
    presets = {path.stem for path in (REPO / "workflow/presets").glob("*.yaml")}
    for page in (REPO / "README.md", REPO / "docs/presets.md"):
        cells = re.findall(r"^\| (`[^|]+) \|", text_of(page), re.MULTILINE)
        assert presets <= {name for cell in cells for name in re.findall(r"`([a-z0-9-]+)`", cell)}


@cache
def literals() -> str:
    """Every string in the code, the parts of f-strings and implicit concatenations joined, placeholders as {}."""
    found = []
    for folder in ("medunifier", "stages", "workflow"):
        for path in (REPO / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def quoted_messages() -> list[str]:
    rows = re.findall(r"^\| `([^`]+)` \|", text_of(REPO / "docs/troubleshooting.md"), re.MULTILINE)
    assert len(rows) > 30
    return rows


@pytest.mark.parametrize("message", quoted_messages())
def test_messages_explained_are_those_of_the_code(message):
    assert message in literals()


EXAMPLES = sorted(path for path in (REPO / "examples").rglob("*") if path.suffix in {".py", ".yaml"})
MAKES_DATA = "examples/own_dataset/make_data.py"  # to try the example with; no part of what a reader writes


def shown_examples() -> list[tuple[str, str, str]]:
    """(page, file, code) for each code block that follows a line ending in the name of an example file."""
    shown = []
    for page in PAGES:
        pattern = r"`(examples/[\w./-]+)`[^`\n]*\n\n```\w*\n(.*?)^```"
        for file, code in re.findall(pattern, text_of(page), re.MULTILINE | re.DOTALL):
            shown.append((page_id(page), file, code))
    return shown


@pytest.mark.parametrize(("page", "file", "code"), shown_examples(), ids=lambda text: str(text)[:40])
def test_examples_shown_are_the_files(page, file, code):
    assert code == (REPO / file).read_text("utf-8"), f"{page} shows another text than {file}"


def test_every_example_is_shown():
    named = {str(path.relative_to(REPO)) for path in EXAMPLES} - {MAKES_DATA}
    assert named <= {file for _, file, _ in shown_examples()}


@pytest.mark.slow
def test_the_website_is_built_without_a_warning(tmp_path):
    command = ["mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "site/index.html").read_text("utf-8")
    fetched = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))', html)
    assert not fetched and "fonts.googleapis" not in html
