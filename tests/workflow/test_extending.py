"""The worked examples of docs/extending.md, taken from the page and run."""

import importlib.util
import re
import sys
import types

import numpy as np
import polars as pl
import pytest
import torch
from ruamel.yaml import YAML

from medunifier.data.layouts import LAYOUTS
from medunifier.runtime.params import Vision, load_params
from medunifier.runtime.yaml import read_mapping
from medunifier.storage.image_shards import ImageStore
from medunifier.storage.tables import PREPARED, write_table
from medunifier.tracking import LocalRun
from medunifier.vision.frozen_encoder import load_vision
from tests.stages.test_prepare import SPLITS, run_settings
from tests.support.fake_files import put
from tests.support.fake_mimic import jpeg, write_csv
from tests.support.paths import REPO
from tests.unit.data.layouts.test_layouts_together import decode
from workflow import code_deps

PAGE = (REPO / "docs/extending.md").read_text(encoding="utf-8")


def blocks(heading: str) -> list[str]:
    """The code blocks of a section."""
    section = PAGE[PAGE.index(f"\n## {heading}\n") :].split("\n## ", 2)[1]
    return re.findall(r"^```(?:python|yaml)\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)


def executed(code: str, name: str) -> types.SimpleNamespace:
    """What a block of Python defines."""
    space = {"__name__": name}
    exec(compile(code, name, "exec"), space)
    return types.SimpleNamespace(**space)


def test_the_data_set_goes_through(tmp_path, monkeypatch):
    """The module, as if it lay in the folder of layouts, and the entry of the preset."""
    module, entry = blocks("A data set")
    name, imported = "hospital", "medunifier.data.layouts.hospital"
    spec = importlib.util.spec_from_file_location(imported, put(tmp_path / "hospital.py", module))
    monkeypatch.setitem(sys.modules, imported, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(sys.modules[imported])
    monkeypatch.setitem(LAYOUTS, name, imported)
    assert f"`{imported.replace('.', '/')}.py`" in PAGE

    yaml = YAML(typ="safe")
    whole = yaml.load((REPO / "params.yaml").read_text(encoding="utf-8"))
    whole["datasets"] |= yaml.load(entry)["datasets"]
    with (tmp_path / "params.yaml").open("w") as file:
        yaml.dump(whole, file)
    settings = load_params(tmp_path / "params.yaml").datasets[name]
    settings = settings.replace(root=str(tmp_path / "hospital"))

    monkeypatch.chdir(tmp_path)
    rows = [
        {"file": f"{number}.jpg", "study": f"s{number}", "patient": f"p{number // 2}", "view": "PA",
         "pneumonia": number % 2, "findings": f"Film {number}.", "impression": "Clear."}
        for number in range(40)
    ]  # fmt: skip
    for row in rows:
        put(tmp_path / "hospital/images" / row["file"], jpeg(row["file"]))
    rows += [rows[7], {**rows[0], "file": "side.jpg", "view": "LATERAL"}, {**rows[0], "file": "gone.jpg"}]
    rows[3] |= {"findings": "", "impression": ""}
    write_csv(tmp_path / "hospital/studies.csv", rows)
    tables, summary = run_settings(settings, name=name)
    assert summary["rejected"] == dict.fromkeys(
        ("duplicate_id", "other_view", "missing_image", "missing_text"), 1
    )
    kept = {row["image_id"]: row for split in SPLITS for row in tables[split].iter_rows(named=True)}
    assert len(kept) == 39
    assert kept["7.jpg"]["report"] == "Film 7. Clear."
    assert all(row["label_pneumonia"] == int(image[:-4]) % 2 for image, row in kept.items())
    decode(name, settings)
    assert len(ImageStore(f"data/images/{name}")) == 39


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A working directory with a prepared table of three images, one of them without a report."""
    monkeypatch.chdir(tmp_path)
    reports = ["Clear lungs.", None, "The heart is not enlarged."]
    columns = {name: [None] * 3 for name in PREPARED.columns} | {
        "image_id": ["a", "b", "c"], "patient_id": ["p", "q", "r"], "study_id": ["s", "t", "u"],
        "image_path": ["a.jpg", "b.jpg", "c.jpg"], "report": reports,
    }  # fmt: skip
    table = pl.DataFrame(columns, schema=dict(PREPARED.columns))
    write_table(table, tmp_path / "data/prepared/small/train.parquet", PREPARED)
    return tmp_path


def test_the_stage_runs(prepared):
    stage = executed(blocks("A stage")[0], "describe_reports").describe_reports
    run = LocalRun("describe_reports@small", prepared / "metrics")
    stage(load_params(REPO / "params.yaml"), run, "small")
    assert run.final == {"n_reports": 2, "words_median": 3.5}
    assert pl.read_csv("results/report_lengths/small.csv")["words"].to_list() == [2, 5]


def test_the_stage_s_entry_is_whole(tmp_path, monkeypatch):
    """In dvc.yaml it makes a stage for each data set; code_deps fills in what the file imports."""
    code, entry = blocks("A stage")
    for folder in ("medunifier", "stages"):
        (tmp_path / folder).symlink_to(REPO / folder) if folder == "medunifier" else (
            tmp_path / folder
        ).mkdir()
    for path in (REPO / "stages").glob("*.py"):
        (tmp_path / "stages" / path.name).symlink_to(path)
    put(tmp_path / "stages/describe_reports.py", code.encode())
    monkeypatch.chdir(tmp_path)
    code_deps.imports.cache_clear()
    whole = code_deps.rewritten((REPO / "dvc.yaml").read_text("utf-8") + "\n" + entry)
    code_deps.imports.cache_clear()
    path = put(tmp_path / "dvc.yaml", whole.encode())
    made = read_mapping(path)["stages"]["describe_reports"]
    deps = made["deps"]
    assert deps[0] == "stages/describe_reports.py"
    assert "data/prepared/${item.dataset}" in deps
    assert any(name.startswith("medunifier/storage") for name in deps)
    assert made["cmd"].split()[:3] == ["python", "-m", "stages.describe_reports"]
    before = read_mapping(REPO / "dvc.yaml")["stages"]
    assert {name: stage for name, stage in read_mapping(path)["stages"].items() if name in before} == before


def test_the_encoder_s_features_are_its_library_s(tmp_path, monkeypatch):
    from transformers import ViTModel

    monkeypatch.chdir(tmp_path)
    code, entry = blocks("An encoder")
    executed(code, "encoder")
    settings = YAML(typ="safe").load(entry)["vision"]
    encoder = load_vision(**Vision(**settings).choice)
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    own = ViTModel.from_pretrained(settings["folder"], add_pooling_layer=False).eval()
    expected = own((pixels - 0.5) / 0.25)
    np.testing.assert_allclose(encoder(pixels), expected.last_hidden_state.detach(), atol=1e-5)


def test_the_metric_counts_words():
    metric = executed(blocks("A metric")[0], "metric")
    references = ["the heart is large", "no effusion", "clear"]
    predictions = ["the heart is normal", "no effusion seen", "large"]
    assert metric.word_recall(references, predictions).tolist() == [0.75, 1.0, 0.0]
    found = metric.word_recall_metrics(references, predictions, ["p", "q", "q"], seed=0)
    assert found["word_recall"] == pytest.approx(100 * 1.75 / 3)
    assert found["word_recall_n"] == 3
    assert found["word_recall_ci_low"] <= found["word_recall"] <= found["word_recall_ci_high"]
