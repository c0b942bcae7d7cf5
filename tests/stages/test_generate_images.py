"""The stage generate_images and the command by hand: sets, seeds, metadata, and verification."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from medunifier.evaluation.loading import load_trained
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import load_params
from medunifier.synthesis.command_line import run_by_hand
from medunifier.synthesis.generated_sets import SETS, read_generated_set
from medunifier.synthesis.generator import load_generator
from medunifier.synthesis.png_metadata import MODEL_NAME, read_png, write_png
from medunifier.synthesis.sampler import SamplingSettings
from medunifier.synthesis.verification import count_different_pixels
from medunifier.tracking import LocalRun
from stages import generate_images as stage
from stages.generate_images import generate_images
from tests.support.trained_project import (
    DATASET,
    REPOSITORY,
    SPLITS,
    VARIANT,
    make_priors,
    make_project,
    report_of,
)

PROMPTS = """
prompts: [edema in the left zone, cardiomegaly]
strips: [{text: 'a {} opacity', words: [small, moderate, large]}]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project after train_prior, with all four sets; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("project")
    params = make_project(folder)
    settings = params.generate.replace(
        unconditional=6, reports=5, samples=2, shown=3, batch_size=4, prompts="mine.yaml"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_priors()
        Path("mine.yaml").write_text(PROMPTS)
        shutil.copy(REPOSITORY / "params.yaml", "params.yaml")
        params = params.replace(generate=settings)
        metrics = run_stage(params)
        yield params, metrics


def command(arguments):
    run_by_hand(arguments, "what the command does")


def run_stage(params):
    run = LocalRun(f"generate_images@{VARIANT}", "results/metrics")
    generate_images(params, run, VARIANT)
    return json.loads(run.metrics_path.read_text())


def generated(name):
    table, store = read_generated_set(f"data/generated/{VARIANT}/{name}")
    return table, store.read(range(len(store)))


def test_four_sets(project):
    _, metrics = project
    assert {name: metrics[f"n_{name}"] for name in SETS} == {
        "unconditional": 6, "reports": 5, "prompts": 4, "strips": 3,
    }  # fmt: skip
    table, pixels = generated("unconditional")
    assert table["prompt"].null_count() == 6 and pixels.shape == (6, 224, 224)
    table, _ = generated("reports")
    test = pl.read_parquet(f"data/prepared/{DATASET}/test.parquet")
    assert len(test) == SPLITS["test"] and set(table["source_id"]) < set(test["image_id"])
    assert table["prompt"].to_list() == [report_of(int(i[1:])) for i in table["source_id"]]
    table, _ = generated("prompts")
    assert table["prompt"].to_list() == ["edema in the left zone"] * 2 + ["cardiomegaly"] * 2
    assert table["row"].to_list() == [0, 0, 1, 1] and table["seed"].n_unique() == 4
    table, _ = generated("strips")
    assert table["prompt"].to_list() == ["a small opacity", "a moderate opacity", "a large opacity"]
    assert table["seed"].n_unique() == 1


def test_pixels_are_those_of_the_codes(project):
    import torch

    table, pixels = generated("reports")
    model = load_trained(VARIANT).model
    with torch.no_grad():
        codes = [torch.from_numpy(table[level].to_numpy().astype(np.int64)) for level in ("top", "bottom")]
        expected = model.decode_codes(*codes)[:, 0].numpy() * 255
    assert np.abs(expected - pixels).max() < 0.51


@pytest.mark.slow
def test_batches_do_not_matter(project, tmp_path, monkeypatch):
    params, _ = project
    before = {name: generated(name) for name in SETS}
    shutil.copytree(".", tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(stage, "SHOWN_SAMPLES", 1)
    run_stage(params.replace(generate=params.generate.replace(batch_size=5)))
    shown = sorted(path.stem for path in Path(f"data/generated/{VARIANT}/prompts/shown").iterdir())
    assert shown == ["prompts-00000", "prompts-00002"]  # one of each prompt's two
    for name, (table, pixels) in before.items():
        again = generated(name)
        assert again[0].equals(table) and (again[1] == pixels).all()


def test_codes_are_sampled_in_double_precision(project):
    """In single precision codes depend on the rounding of products, and that on the size of the batch."""
    import torch

    sampler = load_generator(VARIANT).sampler
    assert {weights.prior.dtype for weights in (sampler.top, sampler.bottom)} == {torch.float64}


def test_every_png_holds_its_metadata(project):
    params, _ = project
    paths = sorted(Path(f"data/generated/{VARIANT}").rglob("*.png"))
    assert len(paths) == 3 + 3 + 4 + 3
    for path in paths:
        table, pixels = generated(path.parts[-3])
        row = table.row(by_predicate=pl.col("image_id") == path.stem, named=True)
        found, fields = read_png(path)
        assert (found == pixels[table["image_id"].to_list().index(path.stem)]).all()
        assert (fields["synthetic"], fields["model"], fields["variant"]) == ("true", "MedUnifier", VARIANT)
        assert fields["seed"] == str(row["seed"]) and fields["prompt"] == (row["prompt"] or "")
        assert json.loads(fields["settings"])["guidance"] == params.generate.guidance
        assert set(json.loads(fields["weights"])) == {"model", "prior_top", "prior_bottom"}


@pytest.mark.slow
def test_an_image_is_regenerated_from_its_metadata(project, capsys):
    """An image of each set, first generated in a batch, now alone by the command."""
    paths = [str(max(Path(f"data/generated/{VARIANT}/{name}/shown").glob("*.png"))) for name in SETS]
    command(["--verify", *paths])
    assert capsys.readouterr().out.splitlines() == [f"{path}: the same pixels" for path in paths]


@pytest.mark.slow
def test_an_edited_image_is_detected(project, tmp_path):
    path = next(Path(f"data/generated/{VARIANT}/prompts/shown").glob("*.png"))
    pixels, fields = read_png(path)
    edited = pixels.copy()
    edited[:2, :3] += 1
    write_png(tmp_path / "pixels.png", edited, fields)
    assert count_different_pixels(tmp_path / "pixels.png")[0] == 6
    with pytest.raises(InputError, match="1 of 2 images differ from what their metadata generate"):
        command(["--verify", str(path), str(tmp_path / "pixels.png")])
    write_png(tmp_path / "seed.png", pixels, fields | {"seed": "77"})
    assert count_different_pixels(tmp_path / "seed.png")[0] > 0
    write_png(tmp_path / "plain.png", pixels, {})
    with pytest.raises(InputError, match=r"plain.png: its metadata are not enough"):
        count_different_pixels(tmp_path / "plain.png")
    write_png(tmp_path / "small.png", pixels[::2], fields)
    with pytest.raises(InputError, match=r"small.png: .* the file was resized"):
        count_different_pixels(tmp_path / "small.png")
    write_png(tmp_path / "settings.png", pixels, fields | {"settings": '{"temperature": -1.0}'})
    with pytest.raises(InputError, match=r"settings.png: its metadata are not enough .*temperature=-1.0"):
        count_different_pixels(tmp_path / "settings.png")
    other = json.loads(fields["weights"]) | {"prior_top": "0" * 64}
    write_png(tmp_path / "other.png", pixels, fields | {"weights": json.dumps(other)})
    with pytest.raises(InputError, match=r"other.png: generated with other weights .*\(prior_top\)"):
        count_different_pixels(tmp_path / "other.png")


@pytest.mark.slow
def test_a_prompt_by_hand(project, tmp_path, capsys):
    command(["--prompt", " Edema, left ", "--samples", "3", "--seed", "5", "--out", str(tmp_path / "new")])
    paths = [tmp_path / "new" / f"edema-left-{seed}.png" for seed in (5, 6, 7)]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    generator = load_generator(VARIANT)
    expected = generator.generate(["Edema, left"], [6], shipped_settings()).pixels[0]
    found, fields = read_png(paths[1])
    assert (found == expected).all() and fields["prompt"] == "Edema, left"
    one = ["--samples", "1", "--guidance", "1", "--seed", "6", "--out", str(tmp_path)]
    command(["--prompt", "Edema, left", *one])
    other, fields = read_png(tmp_path / "edema-left-6.png")
    assert (other != found).any() and json.loads(fields["settings"])["guidance"] == 1


def shipped_settings() -> SamplingSettings:
    g = load_params().generate
    return SamplingSettings(g.temperature, g.top_k, g.top_p, g.guidance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", ""], "--prompt: the prompt is empty"),
        (["--prompt", "  "], "--prompt: the prompt is empty"),
        (["--prompt", "\u200b"], "--prompt: the prompt is empty"),  # an invisible space
        (["--prompt", "edema " * 50], "--prompt: the prompt has 50 tokens, the model reads 38; shorten"),
        (["--prompt", "\udc80edema"], "--prompt: the prompt is no text in UTF-8"),  # a terminal's odd byte
        (["--prompt", "漢字"], "--prompt: no known word in the prompt '漢字'"),
        (["--prompt", "edema", "--variant", "none"], "--variant: 'none' has no image generator; .*: full"),
        (["--prompt", "edema", "--variant", ""], "--variant: '' has no image generator; .*: full"),
        (["--prompt", "edema", "--seed", "-1"], "--seed: -1 is not between 0 and "),
        (["--prompt", "edema", "--seed", str(2**63 - 1)], "--seed: .* is not between 0 and "),
        (["--prompt", "edema", "--temperature", "-1"], "--temperature: -1.0 is no number of at least 0"),
        (["--prompt", "edema", "--temperature", "nan"], "--temperature: nan is no number"),
        (["--prompt", "edema", "--guidance", "-1"], "--guidance: -1.0 is no number of at least 0"),
        (["--prompt", "edema", "--guidance", "inf"], "--guidance: inf is no number"),
        (["--verify", "nowhere.png"], "nowhere.png: not a readable PNG"),
    ],
)
def test_errors_that_a_user_can_fix(project, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        command([*options, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be(project, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--out: .*file/new is no folder to write to \(Not a directory\)"):
        command(["--prompt", "edema", "--out", str(tmp_path / "file/new")])


@pytest.mark.parametrize("samples", ["0", "-3", "1e9", "1000000000", "10001", "9" * 5000, "four"])
def test_a_number_of_images_that_cannot_be(project, tmp_path, capsys, samples):
    with pytest.raises(SystemExit):
        command(["--prompt", "edema", "--samples", samples, "--out", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert "no whole number from 1 to 10000; for more images" in told and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("settings", '{"temperature": "hot"}'),
        ("settings", '{"top_k": 1.5}'),
        ("settings", '{"top_p": [0.5]}'),
        ("settings", '{"guidance": NaN}'),
        ("settings", '{"guidance": true}'),
        ("settings", '{"colour": 1}'),
        ("settings", "[]"),
        ("settings", "[" * 100_000),
        ("weights", "[" * 100_000),
        ("weights", "5"),
        ("seed", "1.5"),
        ("seed", "9" * 5000),
    ],
)
def test_metadata_that_cannot_be_are_refused_in_one_line(project, tmp_path, field, value):
    fields = {
        "variant": VARIANT,
        "seed": "0",
        "prompt": "",
        "settings": "{}",
        "weights": "{}",
        "model": MODEL_NAME,
    }
    write_png(tmp_path / "edited.png", np.zeros((224, 224), np.uint8), fields | {field: value})
    with pytest.raises(InputError, match=r"edited.png: its metadata are not enough") as refused:
        command(["--verify", str(tmp_path / "edited.png")])
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("models/full", "models/full: no trained model .* run pretrain@full first"),
        ("models/priors", "models/priors/full-top: no trained prior; run train_prior@full-top first"),
        ("models/priors/full-bottom", "run train_prior@full-bottom first"),
    ],
)
def test_an_untrained_model(project, tmp_path, monkeypatch, missing, message):
    shutil.copytree(".", tmp_path / "copy", ignore=shutil.ignore_patterns("data"))
    monkeypatch.chdir(tmp_path / "copy")
    shutil.rmtree(missing)
    with pytest.raises(InputError, match=message):
        command(["--prompt", "edema", "--out", "out"])


@pytest.mark.slow
def test_without_text_there_is_the_unconditional_set_alone(project, tmp_path, monkeypatch, capsys):
    params, _ = project
    shutil.copytree(".", tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    make_priors(text=False)
    metrics = run_stage(params)
    assert metrics == {"n_unconditional": 6}
    assert [p.name for p in Path(f"data/generated/{VARIANT}").iterdir()] == ["unconditional"]
    assert "these priors take none" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"these priors take no text; set prior.condition to text"):
        command(["--prompt", "edema", "--out", "out"])


def test_a_prompt_of_the_file_that_is_too_long(project, tmp_path, monkeypatch):
    params, _ = project
    shutil.copytree(".", tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    Path("mine.yaml").write_text(f"- {'edema ' * 60}")
    with pytest.raises(InputError, match=r"mine.yaml: 'edema .*the prompt has 60 tokens"):
        run_stage(params)
    Path("mine.yaml").write_text(
        f"{{prompts: [edema], strips: [{{text: 'a {{}}', words: [b, {'edema ' * 60}]}}]}}"
    )
    with pytest.raises(InputError, match=r"mine.yaml: 'a edema .*the prompt has 61 tokens"):
        run_stage(params)


def test_the_two_forms_of_the_command(project, monkeypatch, capsys):
    """With an option it is the command by hand, without one the stage; --help shows both."""
    import runpy

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["generate_images", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(stage.__file__, run_name="__main__")
        return ended.value.code, capsys.readouterr()

    code, text = run("--help")
    assert code == 0 and "VARIANT | --prompt TEXT" in text.out and "reports of the test split" in text.out
    code, text = run("--prompt", "", "--out", "x")
    assert (
        code == 1
        and text.err
        == "generate_images: --prompt: the prompt is empty; describe what the image should show\n"
    )
    code, text = run("--prompt", "edema")
    assert code == 2 and "--out is needed" in text.err
    code, text = run("--prompt", "edema", "--out", "x", "--samples", "0")
    assert code == 2 and "no whole number from 1 to 10000" in text.err
    code, text = run()
    assert code == 2 and "variant" in text.err
