"""A private data set: none of its texts, ids and images reaches MLflow, the report page, logs or metrics.

The same scan finds them where the data set is not private, so that it can fail.
"""

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from medunifier.report.generated_section import halved
from medunifier.report.images import grid_pairs, jpeg_uri
from medunifier.runtime.params import load_params
from medunifier.storage.image_shards import ImageStore
from medunifier.tracking import LocalRun, Run
from stages.retrieve import retrieve
from stages.summarize import summarize
from stages.write_reports import write_reports
from tests.stages.test_prepare import run_settings
from tests.support.fake_mimic import FakeMimic
from tests.support.paths import REPO
from tests.support.report_results import REFERENCES, SIZE, write_results
from tests.support.stored_runs import send
from tests.support.trained_project import DATASET, SPLITS, VARIANT, make_project, report_of

NUMBERS = range(sum(SPLITS.values()))


def set_private(folder: Path, private: bool) -> None:
    """Say in params.yaml whether the data set of the tests is private."""
    path = folder / "params.yaml"
    text, count = re.subn(
        rf"(?m)^(  {DATASET}:.*\n)", rf"\1    private: {str(private).lower()}\n", path.read_text()
    )
    assert count == 1 and text.count("private:") == 1
    path.write_text(text)


def leaks(content: bytes) -> set[str]:
    """Sentences and ids of the data set that stand in some bytes, whatever the case."""
    text = content.decode("utf-8", errors="replace").lower()
    sentences = {sentence for n in NUMBERS for sentence in report_of(n).lower().split(". ")[:1]}
    found = {sentence for sentence in sentences if sentence in text}
    ids = {name for n in NUMBERS for name in (f"i{n:02}", f"p{n // 2}", f"s{n}")}
    return found | (ids & set(re.findall(r"\b[ips]\d\d?\b", text)))


def rows_of(database: Path) -> bytes:
    """All that a SQLite file holds, as text: its own format has bytes between values that read as ids."""
    with closing(sqlite3.connect(database)) as connection:
        return "\n".join(connection.iterdump()).encode()


@pytest.mark.slow
@pytest.mark.parametrize("private", [True, False])
def test_nothing_of_a_private_data_set_reaches_mlflow_logs_or_metrics(project, capfd, private):
    """Two stages that work with texts, through the real tracking into a real MLflow store."""
    make_project(project)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(REPO / name, project)
    set_private(project, private)
    params = load_params()
    assert params.datasets[DATASET].private == private
    for stage in (retrieve, write_reports):
        with Run.open(f"{stage.__name__}@{VARIANT}-{DATASET}") as run:
            stage(params, run, VARIANT, DATASET)
            run.finish()
    journals = b"".join(path.read_bytes() for path in (project / ".state").rglob("*") if path.is_file())
    assert journals and send()
    output = capfd.readouterr()
    places = {
        "logs": (output.out + output.err).encode(),
        "journals": journals,
        "store": rows_of(project / "mlflow.db"),
        "artifacts": b"".join(p.read_bytes() for p in (project / "mlartifacts").rglob("*") if p.is_file()),
        "metrics": b"".join(path.read_bytes() for path in (project / "results/metrics").iterdir()),
    }
    found = {place: leaks(content) for place, content in places.items()}
    if private:
        assert found == {place: set() for place in places}
        assert "examples.md is not sent to MLflow: it shows a private data set" in output.out
        assert leaks((project / f"results/reports/{VARIANT}-{DATASET}/examples.md").read_bytes())
    else:
        assert found["artifacts"] and found["logs"], "what the scan looks for is there if nobody hides it"


@pytest.mark.slow
def test_the_page_shows_no_text_id_or_image_of_a_private_data_set(tmp_path, monkeypatch):
    folder = write_results(tmp_path / "project")
    monkeypatch.chdir(folder)
    store = ImageStore(Path("data/images") / DATASET)
    images = store.read(np.arange(len(store.image_ids)))
    pairs = grid_pairs(Path("results/images") / VARIANT / "reconstructions.png", SIZE)
    whole = [*images, *(tile for pair in pairs for tile in pair)]
    nearest = {jpeg_uri(image, 75) for image in halved(images)}
    real = {jpeg_uri(image) for image in whole} | nearest

    def made(private: bool) -> tuple[str, set[str]]:
        if private:
            set_private(folder, True)
        summarize(load_params(), LocalRun("summarize", folder / "local"))
        page = Path("results/report/index.html").read_text(encoding="utf-8")
        return page, set(re.findall(r'data:image/[a-z]+;base64,[^"]+', page))

    page, shown = made(private=False)
    assert any(text[:30] in page for text in REFERENCES) and "image-0" in page
    assert shown & nearest and shown & (real - nearest)
    page, shown = made(private=True)
    sentences = {sentence for text in REFERENCES for sentence in text.split(". ")}
    words = re.sub(r"<[^>]+>", "", page)
    assert not [sentence for sentence in sentences if sentence in words]
    assert not re.search(r"image-\d|study-\d", page)
    assert shown and not shown & real, "generated images are still there"
    assert f"Sample reports are left out, since {DATASET} is private. They lie in results/reports/" in words
    assert "Reconstructed images are left out" in words and "nearest training images are left out" in words


@pytest.mark.parametrize("private", [True, False])
def test_warnings_of_prepare_that_name_rows_are_shown_by_hand_only(tmp_path, monkeypatch, capsys, private):
    monkeypatch.chdir(tmp_path)
    fake = FakeMimic(tmp_path)
    for number, split in enumerate(("train", "validate", "test")):
        fake.add(f"d{number}", f"1000000{number}", f"5000000{number}", split=split)
    fake.chexpert.pop()  # no labels of study 50000002
    fake.write()
    run_settings(fake.settings().replace(private=private))
    output = capsys.readouterr().out
    assert ("50000002" in output) != private
    assert ("1 warnings, shown by hand only: python -m stages.prepare --check fake" in output) == private
