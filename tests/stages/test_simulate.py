"""The stage `simulate`."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from medunifier.data.image_decoding import UnreadableImage, decode_image
from medunifier.data.layouts import find_layout
from medunifier.data.preparation.rejects import Selection
from medunifier.data.preparation.rules import select_images
from medunifier.phantom import data_sets
from medunifier.phantom.damage import damage_images
from medunifier.phantom.data_sets import COPIES, generate_patients, generating
from medunifier.phantom.findings import Finding
from medunifier.phantom.grid import CAPTION, caption
from medunifier.runtime.params import Copies, load_params
from medunifier.tracking import LocalRun
from stages.simulate import ROOT, simulate
from tests.support.paths import REPO
from tests.support.recording_run import Noting


def run(patients: int, seed: int = 0, copies: int = 0, report: LocalRun | None = None) -> dict[str, float]:
    settings = SimpleNamespace(
        patients=patients, image_size=48, copies=Copies(**dict.fromkeys(Copies.model_fields, copies))
    )
    params = SimpleNamespace(seed=seed, simulate=settings)
    simulate(params, report or LocalRun("simulate", "metrics"))
    return json.loads(Path("metrics/simulate.json").read_text())


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(30)
    first = tree(ROOT)
    metrics = run(30)
    assert tree(ROOT) == first
    assert not list(ROOT.parent.glob(".*"))  # nothing half-written is left
    assert {"mimic-cxr", "mimic-cxr-jpg", "truth.parquet", "phantoms.png", "README.md"} == {
        p.name for p in ROOT.iterdir()
    }
    assert metrics["patients"] == 30 and metrics["images_frontal"] <= metrics["images"]
    assert metrics["images_truncated"] >= 1 and metrics["images_missing"] >= 1
    run(30, seed=1)
    other = tree(ROOT)
    assert not {name for name in first if name.endswith(".jpg")} & set(other)


@pytest.mark.slow
def test_every_copy_is_the_same_again_and_a_little_damaged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metrics = run(0, copies=24)
    first = tree(ROOT)
    run(0, copies=24)
    assert tree(ROOT) == first
    for name, module in COPIES.items():
        images = [
            path for path in first if path.startswith(module.FOLDER) and path[-3:] not in ("csv", "txt")
        ]
        assert len(images) == metrics[f"images_{name}"] - 1 == 23, "one is lost"
    run(0, seed=1, copies=24)
    assert not {name for name in first if name.endswith(".dcm")} & set(tree(ROOT))


@pytest.mark.parametrize("name", COPIES)
def test_names_in_the_copies_do_not_depend_on_pixels(tmp_path, name):
    """Pixels differ in the last bit between processors; splits and benchmark are chosen by names."""
    found = []
    for size in (48, 56):
        root = tmp_path / str(size)
        COPIES[name].write(root, [COPIES[name].generate(number, 3, size) for number in range(12)], 3)
        found.append({str(path.relative_to(root)) for path in root.rglob("*")})
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phantom-chexpert", "phantom-rsna", "phantom-siim", "phantom-covidx"])
def test_every_copy_is_read_by_the_adapter_that_the_demo_names(tmp_path, monkeypatch, name):
    """All rows are kept but those of the lost radiograph, and all kept images decode but the truncated one."""
    monkeypatch.chdir(tmp_path)
    cut = []

    def damage_and_record(images, seed):
        whole = {path: path.stat().st_size for path in images}
        damage_images(images, seed)
        cut.extend(path.name for path in images if path.exists() and path.stat().st_size < whole[path])

    monkeypatch.setattr(data_sets, "damage_images", damage_and_record)
    run(0, copies=60)
    assert len(cut) == len(COPIES)
    params = load_params(REPO / "params.yaml")
    settings = params.datasets[name].replace(benchmark=None)
    layout = find_layout(settings.layout)
    raw = layout.read_images(settings)
    assert raw.rows["image_id"].n_unique() == len(raw.rows) == 60 and raw.rows["patient_id"].n_unique() > 30
    selection = Selection(raw.rows)
    select_images(selection, settings, layout, seed=0)
    rejected = selection.counts()
    assert rejected["missing_image"] == 1 and set(rejected) <= {"missing_image", "other_view", "test_patient"}
    labels = [column for column in selection.kept.columns if column.startswith("label_")]
    assert labels and all(selection.kept[column].n_unique() > 1 for column in labels[:1])
    broken = []
    for path in selection.kept["image_path"]:
        try:
            image = decode_image(Path(settings.root) / path, 224, "squash")
        except UnreadableImage:
            broken.append(Path(path).name)
        else:
            assert image.shape == (224, 224) and 20 < image.mean() < 235 and image.std() > 15
    kept = {Path(path).name for path in selection.kept["image_path"]}
    assert broken == [name for name in cut if name in kept] and len(broken) == 1


def test_without_patients_nothing_but_the_readme_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noting = Noting("simulate", "metrics")
    assert run(0, report=noting) == {"patients": 0} and noting.artifacts == []
    assert {path.name for path in ROOT.iterdir()} == {"README.md"}


def test_the_grid_in_mlflow_shows_the_first_images_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noting = Noting("simulate", "metrics")
    run(8, report=noting)
    assert noting.artifacts == [str(ROOT / "phantoms.png")]
    found = Image.open(ROOT / "phantoms.png").convert("L")
    assert found.size == (5 * 224, 2 * (224 + CAPTION))
    written = {path.read_bytes() for path in ROOT.rglob("*.jpg")}
    studies = [study for patient in generate_patients(map, 0, 8, 48) for study in patient]
    first = [(study, radiograph) for study in studies for radiograph in study.radiographs][:10]
    assert {radiograph.jpg for _, radiograph in first} <= written
    written_images = [np.asarray(Image.open(io.BytesIO(radiograph.jpg)), float) for _, radiograph in first]
    for number in range(10):
        left, top = number % 5 * 224, number // 5 * (224 + CAPTION)
        tile = np.asarray(found.crop((left, top, left + 224, top + 224)).resize((48, 48)), float)
        assert np.argmin([abs(tile - image).mean() for image in written_images]) == number
        label = np.asarray(found.crop((left, top + 224, left + 224, top + 224 + CAPTION)))
        assert (label < 128).any() and (label[:, [0, -1]] > 128).all(), "a caption, within its tile"


def test_captions_name_view_and_findings_as_far_as_they_fit():
    names = [Finding(name, "left", "lower", 2) for name in ("edema", "pleural_effusion", "atelectasis")]
    study = SimpleNamespace(facts=SimpleNamespace(findings=names[:2]))
    assert caption(study, "AP") == "AP: edema, pleural effusion"
    study.facts.findings = names
    assert caption(study, "AP") == "AP: edema, pleural effusion, …"
    study.facts.findings = []
    assert caption(study, "") == "no view: normal"


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(monkeypatch):
    alone = list(generate_patients(map, 2, 10, 48))
    monkeypatch.setattr(data_sets, "POOL_FROM", 0)
    monkeypatch.setattr(data_sets, "available_cores", lambda: 2)
    with generating(10) as mapped:
        assert mapped is not map
        assert list(generate_patients(mapped, 2, 10, 48)) == alone
