"""What is written from the declarations of the parameters: up to date, complete, and merged as documented."""

import json
import re
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Params, load_params
from tests.support.paths import REPO
from workflow import overlays, parameters
from workflow.overlays import load_preset
from workflow.parameter_text import flow

pytestmark = pytest.mark.slow  # most tests write every preset again, in two seconds

PRESETS = sorted((REPO / "workflow/presets").glob("*.yaml"))
SCHEMA = json.loads((REPO / "workflow/schemas/params.schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A copy of the sources and of what is written from them, as the current folder."""
    for name in ("workflow/presets", "workflow/schemas", "docs"):
        shutil.copytree(REPO / name, tmp_path / name)
    shutil.copy(REPO / "workflow/presets/demo.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch, option: str) -> int:
    monkeypatch.setattr("sys.argv", ["parameters", option])
    return parameters.main()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_everything_is_up_to_date(monkeypatch, capsys):
    monkeypatch.chdir(REPO)
    assert call(monkeypatch, "--check") == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", ["docs/parameters.md", "workflow/presets/paper.yaml", "params.yaml"])
def test_a_file_out_of_date_is_named_and_written_again(here, monkeypatch, capsys, name):
    before = (here / name).read_text(encoding="utf-8")
    (here / name).write_text(before + "# mine\n", encoding="utf-8")
    assert call(monkeypatch, "--check") == 1
    assert f"{name}: out of date: python -m workflow.parameters --write" in capsys.readouterr().err
    assert call(monkeypatch, "--write") == 0
    assert ((here / name).read_text(encoding="utf-8") == before) is (name != "params.yaml")


def test_a_params_yaml_that_a_user_edited_is_left_alone(here, monkeypatch, capsys):
    edit(here / "params.yaml", "seed: 0", "seed: 7")
    edit(here / "workflow/presets/src/demo.yaml", "steps: 620", "steps: 860")
    assert call(monkeypatch, "--write") == 0
    assert "params.yaml: left as it is" in capsys.readouterr().out
    assert "seed: 7" in (here / "params.yaml").read_text(encoding="utf-8")
    assert load_params(here / "workflow/presets/demo.yaml").pretrain.steps == 860


def test_a_preset_without_source_is_named(here, monkeypatch, capsys):
    (here / "workflow/presets/mine.yaml").touch()
    assert call(monkeypatch, "--check") == 1
    assert "workflow/presets/mine.yaml" in capsys.readouterr().err


def test_a_wrong_value_in_a_source_is_refused(here, monkeypatch, capsys):
    edit(here / "workflow/presets/src/release.yaml", "label_smoothing: 0.1", "label_smoothing: 1.5")
    assert call(monkeypatch, "--check") == 1
    said = capsys.readouterr().err
    assert "release.yaml: wrong value(s)" in said and "pretrain.label_smoothing: 1.5 is refused" in said


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_schema_for_editors_admits_the_presets(path):
    errors = Draft202012Validator(SCHEMA).iter_errors(YAML(typ="safe").load(path))
    assert [error.message for error in errors] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", -1),
        ("seed", "0"),
        ("extra", 1),
        ("pretrain.steps", 2.5),
        ("pretrain.learning_rate", 1e30),
        ("pretrain.betas", [0.9]),
        ("pretrain.augment", {"rotation": 5}),
        ("features.shards", [0, 0]),
        ("model.queries", 30),
        ("vision.model", "encoders/tf_efficientnet_lite0"),
        ("variants.full.seed", 2**32),
        ("variants", {"a b": {"itc": 1.0, "itm": 1.0, "itg": 1.0, "tig": 1.0}}),
        ("encoders", ["-a"]),
        ("datasets.phantom.views", []),
        ("datasets.phantom.benchmark.rule", None),
        ("evaluate.finetune", {"phantom-rsna": []}),
    ],
)
def test_the_schema_for_editors_refuses_what_is_refused_when_read(tmp_path, path, value):
    tree = YAML(typ="safe").load(REPO / "workflow/presets/demo.yaml")
    *parents, key = path.split(".")
    node = tree
    for parent in parents:
        node = node[parent]
    node[key] = value
    assert not Draft202012Validator(SCHEMA).is_valid(tree)
    YAML(typ="safe").dump(tree, tmp_path / "params.yaml")
    with pytest.raises(InputError, match=path):
        load_params(tmp_path / "params.yaml")


def test_every_parameter_is_described_in_the_presets_and_the_document():
    text = (REPO / "docs/parameters.md").read_text(encoding="utf-8")
    preset = (REPO / "workflow/presets/demo.yaml").read_text(encoding="utf-8")
    for path in overlays.leaves(load_params(REPO / "workflow/presets/demo.yaml").model_dump(mode="json")):
        parts = path.split(".")
        if parts[0] in ("datasets", "variants"):
            parts[1] = "NAME"
        if parts[:2] == ["evaluate", "finetune"]:
            parts = parts[:2]
        assert f"| `{'.'.join(parts)}` |" in text, path
    for line in (
        r"  steps: 620 +# Optimizer steps\.",
        r"  image_size: 256 +# Height and width .*, in pixels\.",
    ):
        assert re.search(f"^{line}$", preset, re.MULTILINE)


def write_layers(folder: Path, monkeypatch, **layers: str) -> None:
    monkeypatch.setattr(overlays, "SOURCES", folder)
    for name, text in layers.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


BASE = """\
# The base
seed: 1  # Of the base.
images: {size: 224, aspect: crop}
encoders: [a, b]
datasets:
  one: {layout: x, root: here, index: {images: i, labels: l}}
  two: {layout: y, root: there}
variants:
  full: {itc: 1.0, itm: 1.0}
"""


def test_how_layers_are_merged(tmp_path, monkeypatch):
    top = """\
# Two lines
# of header.
#
# And more.
extends: _middle

encoders: [c]
datasets:
  two: {}
  new: {layout: z}  # Mine.
  one: {index: {labels: other}}
"""
    middle = "extends: base\nimages: {aspect: pad}\nseed: 2\nvariants: {}\n"
    write_layers(tmp_path, monkeypatch, base=BASE, _middle=middle, top=top)
    preset = load_preset("top")
    assert preset.header == "Two lines\nof header.\n\nAnd more."
    assert preset.values == {
        "seed": 2,
        "images": {"size": 224, "aspect": "pad"},
        "encoders": ["c"],
        "datasets": {
            "two": {"layout": "y", "root": "there"},
            "new": {"layout": "z"},
            "one": {"layout": "x", "root": "here", "index": {"images": "i", "labels": "other"}},
        },
        "variants": {},
    }
    assert list(preset.values["datasets"]) == ["two", "new", "one"]
    assert load_preset("base").notes == {"seed": "Of the base."}
    assert "seed" not in preset.notes, "a note is about the value that it stands beside"
    assert [preset.name for preset in overlays.presets()] == ["top"]


def test_one_layer_is_laid_over_another(tmp_path, monkeypatch):
    over = "variants:\n  more: {itc: 0.5}\n  full: {}\nseed: 3\n"
    middle, top = "extends: base\nimages: {aspect: pad}\nseed: 2\n", "extends: [middle, base, _over]\n"
    write_layers(tmp_path, monkeypatch, base=BASE, middle=middle, _over=over, top=top)
    values = load_preset("top").values
    assert values["images"] == {"size": 224, "aspect": "pad"}, "base is laid once, under all"
    assert values["seed"] == 3
    assert values["variants"] == {"more": {"itc": 0.5}, "full": {"itc": 1.0, "itm": 1.0}}


def test_layers_in_a_circle_are_refused(tmp_path, monkeypatch):
    write_layers(tmp_path, monkeypatch, a="extends: b\n", b="extends: a\n")
    with pytest.raises(InputError, match="extends itself"):
        load_preset("a")
    write_layers(tmp_path, monkeypatch, c="extends: d\n")
    with pytest.raises(InputError, match=r"d.yaml: not found"):
        load_preset("c")


@pytest.mark.parametrize(
    "value",
    [
        1e-5,
        7e-4,
        1.5e-8,
        1e30,
        1.0,
        0.0,
        25000,
        True,
        None,
        "no",
        "a b",
        "a: b",
        "a # b",
        "1e3",
        "",
        "[",
        "timm:x/y",
        "Ä",
        ["a, b", "null", "x"],
        {"itc": 1.0, "name": "1"},
    ],
)
def test_values_in_one_line_are_read_back(value):
    assert YAML(typ="safe").load(f"key: {flow(value)}  # comment")["key"] == value
    assert YAML(typ="safe").load(f"[{flow(value, inside=True)}]") == [value]


def test_floats_are_floats_for_yaml_1_1_too():
    assert flow(1e-5) == "1.0e-5" and flow(2.5e-7) == "2.5e-7"


def test_every_field_has_a_sentence():
    def sections(model):
        yield model
        for field in model.model_fields.values():
            inner = overlays.section_type(field.annotation) or overlays.section_type(
                overlays.entry_type(field.annotation)
            )
            if inner:
                yield from sections(inner)

    for section in sections(Params):
        for name, field in section.model_fields.items():
            text = field.description or overlays.section_type(field.annotation).__doc__
            assert text and text.strip().endswith("."), f"{section.__name__}.{name}"
