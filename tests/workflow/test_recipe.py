"""benchmarks.recipe: trainings compared by the validation split, in folders that hold no test split."""

import polars as pl
import pytest

from benchmarks.recipe import changed, write_folder
from medunifier.runtime.errors import InputError
from medunifier.runtime.yaml import read_mapping
from tests.support.paths import REPO

PARAMS = {"seed": 0, "pretrain": {"steps": 700, "dataset": "phantom"}, "variants": {"full": {"itg": 3.0}}}


def test_changes_are_read_as_params_yaml_is():
    found = changed(PARAMS, ["pretrain.steps=9", "variants.full.itg=1e-3", "seed=1"])
    assert found == {
        "seed": 1,
        "pretrain": {"steps": 9, "dataset": "phantom"},
        "variants": {"full": {"itg": 1e-3}},
    }
    assert PARAMS["pretrain"]["steps"] == 700, "the parameters given are left as they are"


@pytest.mark.parametrize(
    "change", ["pretrain.step=9", "pretrain.steps", "pretrain.steps.more=1", "tried.steps=9", "="]
)
def test_a_change_of_nothing_is_refused(change):
    with pytest.raises(InputError, match=r"--trial .*NAME=VALUE with a NAME of params\.yaml"):
        changed(PARAMS, [change])


def test_the_validation_split_stands_in_place_of_the_test_split(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "trial"
    prepared = source / "data/prepared/phantom"
    prepared.mkdir(parents=True)
    for split in ("train", "validate", "test"):
        pl.DataFrame({"image_id": [split]}).write_parquet(prepared / f"{split}.parquet")
    params = read_mapping(REPO / "workflow/presets/demo.yaml")
    write_folder(source, folder, params)
    held_out = folder / "data/prepared/phantom"
    assert read_mapping(folder / "params.yaml") == params
    assert [pl.read_parquet(path)["image_id"].item() for path in sorted(held_out.glob("*.parquet"))] == [
        "validate",
        "train",
        "validate",
    ]
    assert pl.read_parquet(prepared / "test.parquet")["image_id"].item() == "test", "the source is as it was"


def test_a_prior_has_the_model_and_the_other_prior_but_no_test_codes(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "trial"
    for place in ("data/prepared/phantom", "data/codes/full"):
        (source / place).mkdir(parents=True)
        for split in ("train", "validate", "test"):
            pl.DataFrame({"image_id": [split]}).write_parquet(source / place / f"{split}.parquet")
    for place in ("models/full", "models/priors/full-top", "models/priors/full-bottom"):
        (source / place).mkdir(parents=True)
    write_folder(source, folder, read_mapping(REPO / "workflow/presets/demo.yaml"), "bottom")
    assert sorted(path.name for path in (folder / "models/priors").iterdir()) == ["full-top"]
    assert (folder / "models/full").resolve() == source / "models/full"
    codes = folder / "data/codes/full"
    assert [
        pl.read_parquet(codes / f"{split}.parquet")["image_id"].item() for split in ("train", "test")
    ] == [
        "train",
        "validate",
    ]
