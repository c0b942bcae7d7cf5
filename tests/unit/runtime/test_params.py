"""params.yaml: read as typed objects; whatever breaks the schema is refused with path, value and what is allowed."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from medunifier.runtime.errors import InputError
from medunifier.runtime.params import load_params
from tests.support.paths import REPO

PRESETS = sorted((REPO / "workflow/presets").glob("*.yaml"))


def edited(tmp_path: Path, changes: dict[str, Any], preset: str = "demo") -> Path:
    """A copy of a preset with other values at dotted paths; `KeyError` as a value takes the key away."""
    yaml = YAML(typ="safe")
    tree = yaml.load(REPO / f"workflow/presets/{preset}.yaml")
    for path, value in changes.items():
        *parents, key = path.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        if value is KeyError:
            del node[key]
        else:
            node[key] = value
    copy = tmp_path / "params.yaml"
    yaml.dump(tree, copy)
    return copy


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_params(path)
    return str(caught.value)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_accepted_and_named_after_their_file(preset: Path) -> None:
    assert load_params(preset).preset == preset.stem


def test_demo_is_what_ships() -> None:
    assert (REPO / "params.yaml").read_bytes() == (REPO / "workflow/presets/demo.yaml").read_bytes()


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_objects_mirror_the_file_one_to_one(preset: Path) -> None:
    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {
                field.name: plain(getattr(value, field.name))
                for field in dataclasses.fields(value)
                if getattr(value, field.name) != field.default  # what the file may leave out
            }
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    assert plain(load_params(preset)) == YAML(typ="safe").load(preset)


def test_types_are_those_of_the_annotations(tmp_path: Path) -> None:
    params = load_params(
        edited(tmp_path, {"variants.full.itc": 1, "pretrain.clip_norm": None, "features.shards": [0, 1]})
    )
    assert type(params.variants["full"].itc) is float and params.pretrain.clip_norm is None
    assert params.features.shards == (0, 1)
    assert params.datasets["phantom"].benchmark.per_class == 30
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.seed = 1


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-3 for a text; DVC reads YAML 1.2."""
    path = edited(tmp_path, {"pretrain.learning_rate": 0.25})
    path.write_text(path.read_text().replace("learning_rate: 0.25", "learning_rate: 1e-3"))
    assert load_params(path).pretrain.learning_rate == 0.001


@pytest.mark.parametrize(
    ("path", "value", "shown", "allowed"),
    [
        ("seed", -1, "-1", "integer, at least 0"),
        ("seed", "0", '"0"', "integer, at least 0"),
        ("seed", True, "true", "integer"),
        ("pretrain.steps", 2.5, "2.5", "integer, at least 1"),
        ("pretrain.precision", "fp8", '"fp8"', "fp32 | bf16 | fp16"),
        ("pretrain.betas", [0.9], "[0.9]", "list, of 2 or more entries"),
        ("pretrain.learning_rate", 0, "0", "number, above 0"),
        ("pretrain.learning_rate", float("nan"), "nan", "a finite number"),
        ("model.dropout", 1.0, "1.0", "below 1"),
        ("model.queries", 30, "30", "a multiple of 4"),
        ("model.decoder_channels", [8, 8], "[8, 8]", "of 3 or more entries"),
        ("images.aspect", "stretch", '"stretch"', "squash | pad | crop"),
        ("datasets.phantom.views", [], "[]", "of 1 or more entries"),
        ("datasets.phantom.benchmark.rule", None, "null", "strict | five_only"),
        ("datasets", {}, "{}", "with 1 or more entries"),
        ("features.shards", [0, 0], "[0, 0]", "without repeats"),
        ("datasets.phantom.split_fractions", [0.8, 0.1, 0.2], "[0.8, 0.1, 0.2]", "three parts that sum to 1"),
        ("pretrain.dataset", "mimic", '"mimic"', "a data set listed under `datasets` (phantom"),
        ("evaluate.retrieve", ["mimic"], '"mimic"', "a data set listed under `datasets` (phantom"),
        (
            "variants.full",
            dict.fromkeys(("itc", "itm", "itg", "tig"), 0),
            "itc",
            "at least one weight above 0",
        ),
        ("trained.tig", ["itc_only"], "itc_only", "a variant whose weight of tig is above 0 (full)"),
        ("trained.itc", [], "[]", "of 1 or more entries"),
        ("encoders", ["full"], "full", "a name that no variant has"),
        ("encoders", ["tokenizer"], "tokenizer", "another name: this folder of models/ holds something else"),
        ("variants.priors", {"itc": 1.0, "itm": 0.0, "itg": 0.0, "tig": 0.0}, "priors", "another name"),
        ("evaluate.finetune_models", ["clip"], "clip", "a variant or one of `encoders` (full)"),
        ("evaluate.finetune", {"siim": ["pneumothorax"]}, "siim", "a data set listed under `datasets`"),
        ("zero_shot.aggregation", "median", "median", "max | mean | ensemble"),
        ("pretrain.temperature_range", [0.1, 0.5], "0.07", "within temperature_range (0.1 to 0.5)"),
        ("pretrain.decay_all", 1, "1", "boolean"),
        ("model.adapter", "relu", '"relu"', "unit_length | rectified"),
        ("write_reports.top_p", 0, "0", "above 0, at most 1"),
        ("simulate.vit.heads", 5, "192", "a multiple of the 5 heads"),
        ("model.heads", 3, "128", "a multiple of the 3 heads"),
        ("pretrain.warmup_start", 0.1, "0.1", "at most pretrain.learning_rate"),
        ("pretrain.final_learning_rate", 0.1, "0.1", "at most pretrain.learning_rate"),
        ("pretrain.accumulate", 5, "5", "a divisor of batch_size (12)"),
        ("vision.watch", "medunifier/vision/frozen_encoder.py", "vision.py", "data/simulated/vit"),
        (
            "vision.model",
            "timm:vit_tiny_patch16_224",
            "data/simulated/vit",
            "medunifier/vision/frozen_encoder.py",
        ),
        ("vision.revision", "abc", "abc", "null, as vision.model is a local folder"),
        ("tokenizer.pretrained", "./tokenizer", "medunifier/data/tokenizer.py", "./tokenizer"),
        ("tokenizer.watch", "params.yaml", "params.yaml", "medunifier/data/tokenizer.py"),
        ("model.text_checkpoint", "/models/bert", "medunifier/data/tokenizer.py", "/models/bert"),
        ("generate.unconditional", 3, "3", "integer, at least 4"),
        ("generate.top_p", 0, "0", "above 0"),
        ("generate.guidance", -1, "-1", "number, at least 0"),
        ("score_images.inception_weights", "inception.pth", "stages/score_images.py", "inception.pth"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, path: str, value: Any, shown: str, allowed: str) -> None:
    message = refusal(edited(tmp_path, {path: value}))
    line = next(line for line in message.splitlines() if allowed in line)
    assert line.strip().startswith(path.split(".")[0]) and shown in line


@pytest.mark.parametrize(
    "path", ["extra", "pretrain.stepz", "datasets.phantom.benchmark.size", "variants.full.gan"]
)
def test_unknown_keys_are_refused_with_the_known_ones(tmp_path: Path, path: str) -> None:
    message = refusal(edited(tmp_path, {path: 7}))
    assert f"{path}: unknown key (value 7); allowed here: " in message


@pytest.mark.parametrize(
    "path", ["seed", "pretrain.steps", "variants.full.tig", "datasets.phantom.index.split"]
)
def test_missing_keys_are_named(tmp_path: Path, path: str) -> None:
    assert f"{path}: missing; allowed: " in refusal(edited(tmp_path, {path: KeyError}))


@pytest.mark.parametrize("name", ["a/b", "a b", "1st", "-a", ""])
def test_names_that_cannot_be_file_and_stage_names_are_refused(tmp_path: Path, name: str) -> None:
    weights = dict.fromkeys(("itc", "itm", "itg", "tig"), 1)
    assert "matching" in refusal(edited(tmp_path, {"variants": {name: weights}}))


def test_a_hub_model_needs_a_revision(tmp_path: Path) -> None:
    changes = {
        "vision.model": "hf:facebook/dinov2-base",
        "vision.watch": "medunifier/vision/frozen_encoder.py",
    }
    assert "vision.revision: null is refused" in refusal(edited(tmp_path, changes))
    assert (
        load_params(edited(tmp_path, changes | {"vision.revision": "f9e44c8"})).vision.revision == "f9e44c8"
    )


@pytest.mark.parametrize("other", [None, "bert-base-uncased"])
def test_a_text_checkpoint_needs_its_own_tokenizer(tmp_path: Path, other: str | None) -> None:
    """Another tokenizer numbers other words; where it has as many, nothing else would tell."""
    message = refusal(edited(tmp_path, {"tokenizer.pretrained": other}, preset="paper"))
    assert (
        "tokenizer.pretrained: " in message
        and "BiomedVLP-CXR-BERT-general, as model.text_checkpoint" in message
    )
    here = {"model.text_checkpoint": "./bert", "model.text_watch": "./bert"}
    here |= {"tokenizer.pretrained": "./bert/", "tokenizer.watch": "./bert/"}
    assert load_params(edited(tmp_path, here)).model.text_checkpoint == "./bert"


def test_a_head_that_no_objective_trains_is_not_evaluated(tmp_path: Path) -> None:
    message = refusal(edited(tmp_path, {"variants.full.itg": 0}))
    assert (
        'trained.itg: "full" is refused; allowed: a variant whose weight of itg is above 0 (there is none)'
        in message
    )


def test_another_encoder_is_judged_where_it_can_be(tmp_path: Path) -> None:
    changes = {
        "encoders": ["clip"],
        "trained.itc": ["full", "clip"],
        "evaluate.finetune_models": ["full", "clip"],
    }
    assert load_params(edited(tmp_path, changes)).encoders == ("clip",)
    assert "trained.itg" in refusal(edited(tmp_path, changes | {"trained.itg": ["clip"]}))


def test_every_violation_is_told_at_once(tmp_path: Path) -> None:
    message = refusal(edited(tmp_path, {"seed": -1, "pretrain.steps": 0, "images.extra": 1}))
    assert "3 wrong value(s)" in message
    assert all(path in message for path in ("seed:", "pretrain.steps:", "images.extra:"))


def test_files_that_are_no_parameters(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert "not found; copy a preset" in refusal(path)
    for content in (b"a: [1", b"a: 1\na: 2\n", b"name: \xe9\n"):
        path.write_bytes(content)
        assert f"{path}: not valid YAML in UTF-8" in refusal(path)
    path.write_text("")
    assert "(top level): null is refused" in refusal(path)


def test_paper_ablation_is_paper_with_the_variants_of_ablation() -> None:
    paper, both, ablation = (
        load_params(REPO / f"workflow/presets/{name}.yaml")
        for name in ("paper", "paper-ablation", "ablation")
    )
    assert both.variants == ablation.variants and both.trained == ablation.trained
    assert set(both.evaluate.finetune_models) == set(both.variants)

    def rest(params):
        evaluate = dataclasses.replace(params.evaluate, finetune_models=())
        return dataclasses.replace(params, preset="", variants={}, trained=None, evaluate=evaluate)

    assert rest(both) == rest(paper)
