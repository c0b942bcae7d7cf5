"""The real dvc.yaml with each preset: `snakemake -n` lists every stage of the contract."""

import shutil
from pathlib import Path

import pytest

from medunifier.runtime.own_encoder import FOLDER
from medunifier.runtime.params import NO_FILE, load_params
from tests.support.checkout import make_checkout
from tests.support.paths import REPO
from tests.support.toy_pipeline import Toy

PRESETS = sorted(path.stem for path in (REPO / "workflow/presets").glob("*.yaml"))


def expected_stages(preset: str) -> list[str]:
    """The names that the public contract gives the stages."""
    params = load_params(REPO / f"workflow/presets/{preset}.yaml")
    names = ["simulate", "train_tokenizer", "summarize"]
    for dataset in params.datasets:
        names += [f"prepare@{dataset}", f"decode_images@{dataset}"]
        names += [f"extract_features@{dataset}-{shard}" for shard in params.features.shards]
    trained = params.trained
    names += [f"pretrain@{variant}" for variant in params.variants]
    names += [
        f"{family}@{variant}"
        for family in ("encode_codes", "generate_images", "score_images")
        for variant in trained.tig
    ]
    names += [f"train_prior@{variant}-{level}" for variant in trained.tig for level in ("top", "bottom")]
    for family, variants in (
        ("retrieve", trained.itc),
        ("zero_shot", trained.itc),
        ("write_reports", trained.itg),
    ):
        datasets = getattr(params.evaluate, family)
        names += [f"{family}@{variant}-{dataset}" for variant in variants for dataset in datasets]
    names += [
        f"finetune@{model}-{dataset}-{percent}"
        for model in params.evaluate.finetune_models
        for dataset in params.evaluate.finetune
        for percent in params.evaluate.finetune_percents
    ]
    return sorted(names)


@pytest.fixture
def checkout(tmp_path: Path) -> Toy:
    """The repository's own pipeline, without data."""
    return make_checkout(tmp_path / "checkout")


@pytest.mark.workflow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_plans_its_stages(checkout: Toy, preset: str) -> None:
    shutil.copy(REPO / f"workflow/presets/{preset}.yaml", checkout.folder / "params.yaml")
    params = load_params(checkout.folder / "params.yaml")
    # what no stage makes: an encoder, and a root with nothing but its index files
    if params.vision.folder != NO_FILE:
        (checkout.folder / params.vision.folder).mkdir(parents=True)
    for dataset in params.datasets.values():
        root = checkout.folder / dataset.root
        if not dataset.root.startswith("data/"):
            root.mkdir(parents=True, exist_ok=True)
            for file in vars(dataset.index).values():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (root / file).touch()
    profile = "slurm" if preset == "paper" else "local"
    assert checkout.planned(f"snakemake --profile {profile} -n") == expected_stages(preset)


@pytest.mark.workflow
def test_lint_is_clean(checkout: Toy) -> None:
    shutil.copy(REPO / "params.yaml", checkout.folder)
    (checkout.folder / FOLDER).mkdir(parents=True)
    assert "Congratulations" in checkout.call("snakemake --lint")
