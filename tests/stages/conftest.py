import pytest

from medunifier.metrics.meteor import Meteor
from stages import write_reports as stage
from tests.support.report_results import write_results


@pytest.fixture(scope="session")
def java():
    """One Java for all tests: loading its dictionaries takes seconds, for which tests that use it are marked slow."""
    with Meteor() as running:
        yield running


@pytest.fixture
def shared_java(java, monkeypatch):
    class Borrowed:
        def __enter__(self):
            return java

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(stage, "Meteor", Borrowed)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The working directory: a project with results of every stage before `summarize`."""
    monkeypatch.chdir(write_results(tmp_path / "project"))
    return tmp_path / "project"
