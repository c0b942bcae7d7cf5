"""params.yaml: read as typed objects; what breaks a limit or a rule is refused with path, value and what is allowed."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from medunifier.runtime.params import NO_FILE, Variant, load_params
from medunifier.runtime.sections.base import Section
from tests.support.params_files import edited, refusal
from tests.support.paths import REPO

PRESETS = sorted((REPO / "workflow/presets").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_accepted_and_named_after_their_file(preset: Path) -> None:
    assert load_params(preset).preset == preset.stem


def test_demo_is_what_ships() -> None:
    assert (REPO / "params.yaml").read_bytes() == (REPO / "workflow/presets/demo.yaml").read_bytes()


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_objects_mirror_the_file_one_to_one(preset: Path) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, Section):
            return {
                name: plain(getattr(value, name))
                for name, field in type(value).model_fields.items()
                if getattr(value, name) != field.default  # what the file may leave out
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
    benchmark = params.datasets["phantom"].benchmark
    assert benchmark is not None and benchmark.per_class == 30
    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 1


def test_a_copy_with_other_values(tmp_path: Path) -> None:
    params = load_params(edited(tmp_path, {}))
    assert params.replace(seed=7).seed == 7 and params.seed == 0
    with pytest.raises(TypeError, match="Params has no sede"):
        params.replace(sede=7)


def test_an_integer_may_be_written_as_a_power_of_ten(tmp_path: Path) -> None:
    path = edited(tmp_path, {"pretrain.steps": 77})
    path.write_text(path.read_text().replace("steps: 77", "steps: 1e3"))
    steps = load_params(path).pretrain.steps
    assert steps == 1000 and type(steps) is int


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-3 for a text; DVC reads YAML 1.2."""
    path = edited(tmp_path, {"pretrain.learning_rate": 0.25})
    path.write_text(path.read_text().replace("learning_rate: 0.25", "learning_rate: 1e-3"))
    assert load_params(path).pretrain.learning_rate == 0.001


def test_variants_with_a_hyphen_are_fine(tmp_path: Path) -> None:
    tree = YAML(typ="safe").load(edited(tmp_path, {}))
    path = edited(tmp_path, {"variants": tree["variants"] | {"no-itg": tree["variants"]["full"]}})
    assert isinstance(load_params(path).variants["no-itg"], Variant)


def test_options_of_the_decoder_fit_its_kind(tmp_path: Path) -> None:
    changes = {
        "model.decoder_kind": "residual",
        "model.decoder_shortcut": True,
        "model.decoder_channels": [48, 32, 16],
    }
    message = refusal(
        edited(tmp_path, changes | {"model.code_width": 6, "model.adapter_position": "sinusoidal"})
    )
    for said in (
        "model.decoder_channels: [48, 32, 16] is refused; allowed: four numbers, as model.decoder_kind is residual",
        "model.decoder_shortcut: true is refused; allowed: false, as model.decoder_kind is residual",
        "model.code_width: 6 is refused; allowed: a multiple of 4, for sinusoidal positions",
    ):
        assert said in message


def test_a_hub_model_needs_a_revision(tmp_path: Path) -> None:
    changes = {"vision.model": "hf:facebook/dinov2-base", "vision.folder": NO_FILE}
    assert "vision.revision: null is refused" in refusal(edited(tmp_path, changes))
    vision = load_params(edited(tmp_path, changes | {"vision.revision": "f9e44c8"})).vision
    assert (vision.source, vision.revision) == ("hf:facebook/dinov2-base", "f9e44c8")


def test_where_encoder_tokenizer_and_weights_come_from(tmp_path: Path) -> None:
    params = load_params(edited(tmp_path, {}))
    assert params.vision.source == "encoders/tf_efficientnet_lite0"
    assert params.tokenizer.source is None and params.score_images.inception_file is None
    here = {"tokenizer.folder": "./bert", "model.text_checkpoint": True}
    params = load_params(edited(tmp_path, here | {"score_images.inception_weights": "inception.pth"}))
    assert params.tokenizer.source == "./bert" and params.score_images.inception_file == "inception.pth"
    hub = load_params(REPO / "workflow/presets/paper.yaml").tokenizer
    assert hub.source == "microsoft/BiomedVLP-CXR-BERT-general"
    both = refusal(edited(tmp_path, {"tokenizer.folder": "./bert"}, preset="paper"))
    assert f'tokenizer.folder: "./bert" is refused; allowed: {NO_FILE}, as tokenizer.pretrained names' in both


def test_the_file_that_stands_for_none_is_there() -> None:
    assert (REPO / NO_FILE).is_file()


def test_a_head_that_no_objective_trains_is_not_evaluated(tmp_path: Path) -> None:
    message = refusal(edited(tmp_path, {"variants.full.itg": 0}))
    assert (
        'trained.itg: "full" is refused; allowed: a variant whose weight of itg is above 0 (there is none)'
        in message
    )


def test_another_encoder_is_evaluated_where_it_can_be(tmp_path: Path) -> None:
    changes = {
        "encoders": ["clip"],
        "trained.itc": ["full", "clip"],
        "evaluate.finetune_models": ["full", "clip"],
    }
    assert load_params(edited(tmp_path, changes)).encoders == ("clip",)
    assert "trained.itg" in refusal(edited(tmp_path, changes | {"trained.itg": ["clip"]}))


def test_paper_ablation_is_paper_with_the_variants_of_ablation() -> None:
    paper, both, ablation = (
        load_params(REPO / f"workflow/presets/{name}.yaml")
        for name in ("paper", "paper-ablation", "ablation")
    )
    assert both.variants == ablation.variants and both.trained == ablation.trained
    assert set(both.evaluate.finetune_models) == set(both.variants)

    def rest(params):
        evaluate = params.evaluate.replace(finetune_models=())
        return params.replace(preset="", variants={}, trained=None, evaluate=evaluate)

    assert rest(both) == rest(paper)
