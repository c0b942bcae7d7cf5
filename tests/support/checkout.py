"""A copy of the repository's own pipeline in another folder, without data."""

import shutil
from pathlib import Path

from tests.support.paths import REPO
from tests.support.toy_pipeline import Toy


def make_checkout(folder: Path) -> Toy:
    """Copy code, workflow and DVC's configuration to `folder`; params.yaml is left to the caller."""
    for name in ("workflow", "stages", "medunifier"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "dvc.yaml", "environment.yml", ".gitignore", ".dvcignore"):
        shutil.copy(REPO / name, folder)
    for name in ("slurm", "local", "profiles"):
        (folder / name).symlink_to(REPO.joinpath(name).readlink())
    (folder / ".dvc").mkdir()
    shutil.copy(REPO / ".dvc/config", folder / ".dvc")
    toy = Toy(folder)
    toy.shell("git init -q")
    return toy
