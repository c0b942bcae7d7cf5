"""Toy pipelines: `toy` before its first run, `done` after a complete one."""

from pathlib import Path

import pytest

from tests.support.toy_pipeline import Toy


@pytest.fixture(scope="session")
def fresh_template(tmp_path_factory) -> Toy:
    return Toy(tmp_path_factory.mktemp("fresh") / "toy").build()


@pytest.fixture(scope="session")
def done_template(tmp_path_factory, fresh_template: Toy) -> Toy:
    toy = fresh_template.copy_to(tmp_path_factory.mktemp("done") / "toy")
    toy.call("dvc repro")
    toy.ran()
    return toy


@pytest.fixture
def toy(tmp_path: Path, fresh_template: Toy) -> Toy:
    """The toy pipeline with nothing run yet."""
    return fresh_template.copy_to(tmp_path / "toy")


@pytest.fixture
def done(tmp_path: Path, done_template: Toy) -> Toy:
    """The toy pipeline after a complete `dvc repro`."""
    return done_template.copy_to(tmp_path / "toy")
