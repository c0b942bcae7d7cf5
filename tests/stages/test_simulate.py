"""The stage `simulate` and its stand-in ViT."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.fft
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
from medunifier.phantom.stand_in_vit import POSITION, hidden_units, patch_functions, position_code, write_vit
from medunifier.runtime.params import Copies, load_params
from medunifier.tracking import LocalRun
from stages.simulate import ROOT, simulate
from tests.support.paths import REPO
from tests.support.recording_run import Noting

VIT = SimpleNamespace(width=192, layers=2, heads=3, patch_size=14)


def run(patients: int, seed: int = 0, copies: int = 0, report: LocalRun | None = None) -> dict[str, float]:
    settings = SimpleNamespace(
        patients=patients, image_size=48, vit=VIT, copies=Copies(**dict.fromkeys(Copies.model_fields, copies))
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
    assert {"vit", "mimic-cxr", "mimic-cxr-jpg", "truth.parquet", "phantoms.png", "README.md"} == {
        p.name for p in ROOT.iterdir()
    }
    assert metrics["patients"] == 30 and metrics["images_frontal"] <= metrics["images"]
    assert metrics["images_truncated"] >= 1 and metrics["images_missing"] >= 1
    run(30, seed=1)
    other = tree(ROOT)
    assert not {name for name in first if name.endswith(".jpg")} & set(other)
    assert other["vit/model.safetensors"] != first["vit/model.safetensors"]


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


def test_without_patients_only_the_vit_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noting = Noting("simulate", "metrics")
    assert run(0, report=noting) == {"patients": 0} and noting.artifacts == []
    assert {path.name for path in ROOT.iterdir()} == {"vit", "README.md"}


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


@pytest.mark.slow
def test_the_vit_loads_with_transformers_and_keeps_the_appearance_of_a_patch(tmp_path):
    import torch
    from transformers import ViTModel

    write_vit(tmp_path, VIT, seed=3)
    vit, info = ViTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    coarse = torch.rand(24, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    pixels = torch.nn.functional.interpolate(coarse, size=224, mode="bicubic").clamp(0, 1)
    with torch.no_grad():
        tokens = vit.eval()(pixel_values=pixels.expand(-1, 3, -1, -1)).last_hidden_state
    assert tokens.shape == (24, 257, 192)
    assert tokens.abs().max() < 100  # far from the limits of float16
    # A linear map, fitted on some patches, reconstructs others.
    patches = torch.nn.functional.unfold(pixels, 14, stride=14).transpose(1, 2).reshape(-1, 196)
    inputs = torch.cat([tokens[:, 1:].reshape(-1, 192), torch.ones(len(patches), 1)], dim=1)
    fit, rest = slice(0, 4000), slice(4000, None)
    weights = torch.linalg.lstsq(inputs[fit], patches[fit]).solution
    error = (inputs[rest] @ weights - patches[rest]).var() / patches[rest].var()
    assert error < 0.05


@pytest.mark.slow
def test_the_mean_token_encodes_the_brightness_of_each_region(tmp_path):
    import torch
    from transformers import ViTModel

    write_vit(tmp_path, VIT, seed=3)
    vit = ViTModel.from_pretrained(tmp_path).eval()
    bright = torch.rand(480, 4, 4, generator=torch.Generator().manual_seed(0))  # of 16 regions of an image
    pixels = torch.nn.functional.interpolate(bright[:, None], size=224, mode="nearest")
    with torch.no_grad():
        mean = torch.cat(
            [
                vit(pixel_values=some.expand(-1, 3, -1, -1)).last_hidden_state[:, 1:].mean(1)
                for some in pixels.split(60)
            ]
        )
    inputs, truth = torch.cat([mean, torch.ones(480, 1)], dim=1), bright.flatten(1)
    weights = torch.linalg.lstsq(inputs[:360], truth[:360]).solution
    error = (inputs[360:] @ weights - truth[360:]).square().mean(0) / truth[360:].var(0)
    assert error.max() < 0.1


@pytest.mark.parametrize(("patch_size", "count"), [(14, 64), (8, 20), (4, 30)])
def test_patch_functions_are_the_lowest_cosines(patch_size, count):
    functions = patch_functions(patch_size, count)
    assert functions.shape == (count, patch_size, patch_size)
    spectra = scipy.fft.dctn(functions, axes=(1, 2), norm="ortho")
    u, v = np.indices((patch_size, patch_size))
    lowest = np.sort(np.hypot(u, v).ravel())[:count]
    for function, spectrum in zip(functions, spectra, strict=True):
        assert (np.abs(spectrum) > 1e-9).sum() == (1 if function.any() else 0)
    kinds = np.argwhere(np.abs(spectra) > 1e-9)[:, 1:]  # one frequency of each function that is not zero
    assert len(np.unique(kinds, axis=0)) == len(kinds) == min(count, patch_size**2)
    np.testing.assert_allclose(np.sort(np.hypot(*kinds.T)), lowest, atol=1e-12)


def test_position_codes_are_closest_to_their_neighbours():
    code = position_code(16, 32)
    np.testing.assert_allclose(np.linalg.norm(code, axis=1), POSITION)
    distance = np.linalg.norm(code[:, None] - code[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    rows, columns = np.divmod(np.arange(256), 16)
    nearest = distance.argmin(axis=1)
    steps = np.abs(rows[nearest] - rows) + np.abs(columns[nearest] - columns)
    assert (steps == 1).all()


def test_hidden_units_are_active_in_a_part_of_the_image_each():
    code = position_code(16, 32)
    weights, bias = hidden_units(code, 190, 3, np.random.default_rng(0))
    active = code @ weights[:, :32].T + bias > 0  # (positions, units), of a uniform patch
    share = active.mean(0)
    assert 0.05 < np.median(share) < 0.3 and share.max() < 0.5
    assert active.any(1).all(), "a position at which no unit is active"
