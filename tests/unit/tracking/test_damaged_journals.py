"""A journal that a disk has damaged costs at most its own entries in MLflow: neither stages nor the uploader stop."""

from pathlib import Path

import pytest

from medunifier.tracking.journal import Journal
from tests.support.damage import flip
from tests.support.stored_runs import children, data, history, parents, run_of, send
from tests.support.tracking_project import execute

ABOUT = {"uri": "sqlite:///mlflow.db", "stage": "train", "execution_id": "one", "tags": {"node": "here"}}


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A journal with two entries, and what the store has of it."""
    monkeypatch.chdir(tmp_path)
    journal = Journal.create(ABOUT)
    journal.append(status="RUNNING")
    journal.append(step=3, curve={"loss": 0.25})
    journal.release()
    journal.save_progress({"offset": 5, "run_id": "r", "status": "RUNNING", "time": 1})
    return journal


def test_what_was_written_is_read(journal: Journal) -> None:
    (read,) = Journal.all("train")
    first, second = (entry for entry, _ in read.entries(0))
    assert (first["status"], second["step"], second["curve"]) == ("RUNNING", 3, {"loss": 0.25})
    assert read.about == ABOUT and read.progress["offset"] == 5


@pytest.mark.parametrize("bit", [0, 4, 7])
def test_an_entry_with_a_flipped_bit_is_left_out(journal: Journal, bit: int) -> None:
    """Or it is whole: where the bit is in the name of the check sum."""
    whole, content = [entry for entry, _ in journal.entries(0)], journal.path.read_bytes()
    for position in range(len(content)):
        flip(journal.path, position, bit)
        entries = [entry for entry, _ in journal.entries(0)]
        assert all(not entry or any(entry.items() >= good.items() for good in whole) for entry in entries)
        assert journal.claim()
        journal.release()
        journal.path.write_bytes(content)


@pytest.mark.parametrize("bit", [0, 4, 7])
def test_progress_with_a_flipped_bit_does_not_count(journal: Journal, bit: int) -> None:
    path, whole = journal.folder / "progress.json", journal.progress
    for position in range(path.stat().st_size):
        flip(path, position, bit)
        assert not journal.progress or journal.progress.items() >= whole.items()
        flip(path, position, bit)


def test_a_journal_of_nobody_is_set_aside(journal: Journal, capsys: pytest.CaptureFixture) -> None:
    flip(journal.folder / "about.json", 12)
    assert Journal.all() == [] and "damaged; set aside" in capsys.readouterr().out
    assert Journal.all() == [] and capsys.readouterr().out == ""


def test_the_uploader_sends_the_rest(project: Path) -> None:
    first = execute("first", metrics=[("good", 1.0)], curve=[(1, {"loss": 3.0}), (2, {"loss": 2.0})])
    path = Path(f".state/tracking/journals/first/{first}/journal.jsonl")
    flip(path, path.read_bytes().index(b"3.0"))
    second = execute("second@full", metrics=[("good", 2.0)])
    broken = Path(f".state/tracking/journals/second@full/{second}/about.json")
    flip(broken, 20)
    assert send()
    run = run_of(first)
    assert run.status == "FINISHED" and history(run.run_id, "loss") == [(2, 2.0)]
    assert data(run.run_id).metrics["good"] == 1.0
    (parent,) = parents()
    assert [child.run_id for child in children(parent)] == [run.run_id]
