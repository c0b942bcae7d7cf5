"""README fits on two screens, lists what there is, and its commands run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medunifier.runtime.own_encoder import FOLDER
from medunifier.runtime.yaml import read_mapping
from medunifier.vision.convert import lite0_folder
from tests.support.paths import REPO

README = (REPO / "README.md").read_text(encoding="utf-8")
MOST_LINES, LONGEST_LINE = 150, 120
WITHOUT_DATA = (
    "python -m workflow.status",
    "snakemake -n",
)  # of its commands those that are quick in a fresh clone


def test_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= MOST_LINES
    assert [line for line in lines if len(line) > LONGEST_LINE] == []


def test_the_table_of_stages_is_that_of_dvc_yaml():
    families = read_mapping(REPO / "dvc.yaml")["stages"]
    named = re.findall(r"^\| `([a-z_]+)(?:@[A-Z-]+)?` \|", README, flags=re.MULTILINE)
    assert [name for name in named if name in families] == list(families)


def test_images_shown_are_there():
    shown = re.findall(r"!\[.+?\]\((.+?)\)", README)
    assert shown
    assert all((REPO / image).is_file() for image in shown)


@pytest.mark.parametrize(("table", "page"), [(0, "nih-small.md"), (1, "phantom.md")])
def test_results_are_those_of_docs(table, page):
    """A value in README's tables of results stands in a page of docs/results, beside its reference."""
    results = README[README.index("## Results") :].split("## ")[1]
    part = results.split("| metric |")[table + 1]
    rows = re.findall(r"^\| .+ \| (\d[^|]*) \| (\d[\d.]*) ", part, flags=re.MULTILINE)
    assert 3 <= len(rows) <= 6
    text = (REPO / "docs/results" / page).read_text(encoding="utf-8")
    for value, reference in rows:
        assert re.search(rf"\| {re.escape(value)} \|.*[ ;]{re.escape(reference)} ", text), value


def tracked_copy(folder: Path) -> Path:
    """The files of a clone, as they are in the working tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if not (source := REPO / name).exists():
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


@pytest.mark.workflow
@pytest.mark.slow
def test_commands_run_in_a_fresh_clone(tmp_path, monkeypatch):
    block = README[README.index("## Run it") :].split("```")[1]
    lines = [line.split("  #")[0].strip() for line in block.splitlines()]
    clone = tracked_copy(tmp_path / "clone")
    lite0_folder(clone / FOLDER)  # as the set-up does
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(clone))
    for command in WITHOUT_DATA:
        assert command in lines
        done = subprocess.run(
            command.split(), cwd=clone, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "pretrain@full" in done.stdout + done.stderr
