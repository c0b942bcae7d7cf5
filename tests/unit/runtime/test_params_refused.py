"""Wrong values, unknown and missing keys, unfit names: refused with path, value and what is allowed."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from medunifier.runtime.params import NO_FILE, load_params
from tests.support.params_files import edited, refusal


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
        ("evaluate.finetune.phantom-rsna", [], "[]", "list or section, of 1 or more entries"),
        ("evaluate.finetune.phantom-rsna", "edema", "edema", "list or section"),
        ("evaluate.finetune.phantom-rsna", {"labels": []}, "phantom-rsna.labels: []", "of 1 or more entries"),
        ("evaluate.finetune.phantom-rsna", {"blank": "ignore"}, "labels: missing", "list"),
        ("evaluate.finetune.phantom-rsna", {"labels": ["a"], "blank": 0}, "0", "negative | ignore"),
        (
            "evaluate.finetune.phantom-rsna",
            {"labels": ["a"], "x": 0},
            "x: unknown key",
            "labels, blank, uncertain",
        ),
        (
            "zero_shot.multi_label",
            {"phantom-siim": {"labels": ["a"]}},
            "siim",
            "a data set of evaluate.zero_shot",
        ),
        ("zero_shot.aggregation", "median", "median", "max | mean | ensemble"),
        ("pretrain.temperature_range", [0.1, 0.5], "0.07", "within temperature_range (0.1 to 0.5)"),
        ("pretrain.decay_all", 1, "1", "boolean"),
        ("model.adapter", "relu", '"relu"', "unit_length | rectified"),
        ("write_reports.top_p", 0, "0", "above 0, at most 1"),
        ("model.heads", 3, "128", "a multiple of the 3 heads"),
        ("pretrain.warmup_start", 0.1, "0.1", "at most pretrain.learning_rate"),
        ("pretrain.final_learning_rate", 0.1, "0.1", "at most pretrain.learning_rate"),
        ("pretrain.accumulate", 5, "5", "a divisor of batch_size (8)"),
        (
            "vision.model",
            "timm:vit_tiny_patch16_224",
            "encoders/tf_efficientnet_lite0",
            f"{NO_FILE}, as vision.model names",
        ),
        (
            "vision.model",
            "encoders/tf_efficientnet_lite0",
            "encoders/tf_efficientnet_lite0",
            "a local folder belongs under vision.folder",
        ),
        ("vision.folder", NO_FILE, NO_FILE, "a local folder, as vision.model is null"),
        ("vision.revision", "abc", "abc", "null, as vision.folder is a local folder"),
        (
            "tokenizer.pretrained",
            "./tokenizer",
            "./tokenizer",
            "a local folder belongs under tokenizer.folder",
        ),
        ("tokenizer.pretrained", "medunifier", "medunifier", "a local folder belongs under tokenizer.folder"),
        (
            "model.text_checkpoint",
            True,
            "true",
            "false, as neither tokenizer.pretrained nor tokenizer.folder",
        ),
        ("model.text_checkpoint", "/models/bert", "/models/bert", "boolean"),
        ("generate.unconditional", 3, "3", "integer, at least 4"),
        ("generate.top_p", 0, "0", "above 0"),
        ("generate.guidance", -1, "-1", "number, at least 0"),
        ("score_images.inception_weights", None, "null", f"a file, or {NO_FILE}"),
        ("pretrain.steps", 1e30, "1e+30", "at most 100000000"),
        ("pretrain.learning_rate", 1e30, "1e+30", "at most 10"),
        ("pretrain.checkpoint_minutes", 1e30, "1e+30", "at most 1000000"),
        ("prior.top.channels", 10**9, "1000000000", "at most 65536"),
        ("retrieve.bootstrap", 10**9, "1000000000", "at most 1000000"),
        ("generate.guidance", 1e30, "1e+30", "at most 1000"),
        ("variants.full.seed", 2**32, "4294967296", "at most 4294967295"),
        ("pretrain.temperature_range", [0.5, 0.01], "[0.5, 0.01]", "the lower first"),
        ("pretrain.temperature_range", [0, 0.5], "0", "number, above 0"),
        ("preset", "a;b", "a;b", "the first a letter or digit"),
        ("model.decoder_kind", "unet", '"unet"', "tapered | deconvolutional | residual"),
        (
            "model.decoder_kind",
            "deconvolutional",
            '"group"',
            "batch, as model.decoder_kind is deconvolutional",
        ),
        ("finetune.head", "two_layers", '"probe"', "zero or random, as finetune.head is two_layers"),
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


@pytest.mark.parametrize("name", ["a/b", "a b", "1st", "-a", "", ".a", "a\n", "a;b", "$a", "ä", "a" * 65])
def test_names_that_cannot_be_file_and_stage_names_are_refused(tmp_path: Path, name: str) -> None:
    weights = dict.fromkeys(("itc", "itm", "itg", "tig"), 1)
    words = "matching", "the first a letter"
    for changes in ({"variants": {name: weights}}, {"encoders": [name]}):
        message = refusal(edited(tmp_path, changes))
        assert all(word in message for word in words) and f"{next(iter(changes))}" in message
    path = edited(tmp_path, {})
    tree = YAML(typ="safe").load(path)
    tree["datasets"][name] = tree["datasets"]["phantom"]
    YAML(typ="safe").dump(tree, path)
    assert all(word in refusal(path) for word in words)


@pytest.mark.parametrize("where", ["variants", "datasets"])
def test_keys_hold_no_dot_by_which_dvc_would_look_them_up(tmp_path: Path, where: str) -> None:
    path = edited(tmp_path, {})
    tree = YAML(typ="safe").load(path)
    tree[where]["a.b"] = next(iter(tree[where].values()))
    YAML(typ="safe").dump(tree, path)
    assert f'{where}: "a.b" is refused; allowed: string, matching' in refusal(path)
    assert load_params(edited(tmp_path, {"encoders": ["ViT-B.16"]})).encoders == ("ViT-B.16",)


def test_names_that_would_give_two_stages_one_name_are_refused(tmp_path: Path) -> None:
    tree = YAML(typ="safe").load(edited(tmp_path, {}))
    datasets = tree["datasets"] | {"no-itg-phantom": tree["datasets"]["phantom"]}
    variants = tree["variants"] | {"full-no-itg": tree["variants"]["full"]}
    message = refusal(edited(tmp_path, {"datasets": datasets, "variants": variants}))
    assert 'variants: "full-no-itg" is refused; allowed: another name: on phantom' in message
    assert "no-itg-phantom" in message


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
    path.write_text("7: 1\n")
    assert "7: unknown key; allowed here: preset, seed" in refusal(path)
