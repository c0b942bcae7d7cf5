"""The programs in examples/ run from any folder on a trained project, and print what independent code computes."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, ViTConfig, ViTModel

from medunifier import MedUnifierModel, MedUnifierProcessor
from medunifier.data.image_decoding import decode_image
from medunifier.data.tokenizer import decode, tokenize
from medunifier.huggingface.image_processing_medunifier import MedUnifierImageProcessor
from medunifier.synthesis.verification import count_different_pixels
from medunifier.vision.frozen_encoder import load_vision
from tests.support.encoder_folders import save_unit_processor
from tests.support.paths import REPO
from tests.support.trained_project import WIDTH, make_priors, make_project, report_of

ENCODER = "encoders/vit"  # relative to the project, as in the demo
TEXTS = [report_of(n) for n in (0, 7, 14)]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A trained project, and a working directory elsewhere with two radiographs."""
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(folder)
    make_project(folder)
    make_priors()
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(patch_size=14, hidden_size=WIDTH, **sizes)).save_pretrained(ENCODER)
    save_unit_processor(ENCODER)
    model = MedUnifierModel.from_pretrained("models/full")
    model.config.vision = load_vision(ENCODER).record()
    with torch.no_grad():
        for part in (model.qformer, model.text_head, model.query_projection, model.text_projection):
            for weight in part.parameters():  # images and texts then differ
                weight.normal_(std=0.5)
    model.save_pretrained("models/full")
    tokenizer = AutoTokenizer.from_pretrained("models/full")
    MedUnifierProcessor(MedUnifierImageProcessor(), tokenizer, 40).save_pretrained("models/full")
    monkeypatch.chdir(elsewhere)
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png"):
        Image.fromarray(rng.integers(0, 255, (300, 224), np.uint8)).save(name)
    return folder


def run(name, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(REPO / "examples" / name), run_name="__main__")


def own_features(project, *names):
    """Image features (n, 257, WIDTH) without the processor and the model's own loading."""
    pixels = np.stack([decode_image(name, 224, "squash") for name in names]) / np.float32(255)
    vit = ViTModel.from_pretrained(project / ENCODER).eval()
    with torch.no_grad():
        tokens = vit(pixel_values=torch.from_numpy(pixels)[:, None].expand(-1, 3, -1, -1)).last_hidden_state
    return tokens.half().float()


def test_a_report_for_each_image_file(project, monkeypatch, capsys):
    run("load_and_report.py", project / "models/full", "a.jpg", "b.png", monkeypatch=monkeypatch)
    model = MedUnifierModel.from_pretrained(project / "models/full")
    ids = model.generate(own_features(project, "a.jpg", "b.png"), num_beams=3)
    reports = decode(AutoTokenizer.from_pretrained(project / "models/full"), ids)
    assert capsys.readouterr().out == f"a.jpg: {reports[0]}\nb.png: {reports[1]}\n"


def test_texts_are_ranked_by_the_cosine_of_the_best_query(project, monkeypatch, capsys):
    run(
        "embed_and_rank.py",
        project / "models/full",
        "a.jpg",
        "b.png",
        "--texts",
        *TEXTS,
        monkeypatch=monkeypatch,
    )
    model = MedUnifierModel.from_pretrained(project / "models/full")
    tokenizer = AutoTokenizer.from_pretrained(project / "models/full")
    with torch.no_grad():
        queries = model.encode_image(own_features(project, "a.jpg", "b.png"))[1].numpy()
        texts = model.encode_text(*tokenize(tokenizer, TEXTS, 40))[1].numpy()
    expected = []
    for name, image in zip(("a.jpg", "b.png"), queries, strict=True):
        cosines = {text: max(float(q @ t) for q in image) for text, t in zip(TEXTS, texts, strict=True)}
        expected.append(name)
        expected += [
            f"  {cosines[text]:.3f}  {text}" for text in sorted(TEXTS, key=cosines.get, reverse=True)
        ]
    assert capsys.readouterr().out.splitlines() == expected


def test_generated_images_say_how_they_were_made_and_regenerate(project, monkeypatch, capsys):
    run("generate_images.py", project, TEXTS[0], "--samples", 2, "--seed", 5, monkeypatch=monkeypatch)
    paths = [Path("generated/5.png"), Path("generated/6.png")]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    one, other = (np.asarray(Image.open(path)) for path in paths)
    assert one.shape == (224, 224) and (one != other).any()
    absolute = [path.resolve() for path in paths]
    monkeypatch.chdir(project)
    for path in absolute:
        assert count_different_pixels(path)[0] == 0


@pytest.mark.parametrize("path", sorted((REPO / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_a_screen(path):
    assert len(path.read_text("utf-8").splitlines()) <= 40
