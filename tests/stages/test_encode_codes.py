"""The stage encode_codes and its table: what is written is what the model gives, image by image."""

import json

import numpy as np
import polars as pl
import pytest

from medunifier.evaluation.loading import load_trained
from medunifier.runtime.errors import InputError
from medunifier.synthesis.codes import read_codes, write_codes
from medunifier.tracking import LocalRun
from stages import encode_codes as stage
from stages.encode_codes import encode_codes
from tests.support.trained_project import DATASET, SPLITS, VARIANT, make_project, report_of, with_answers


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path)


def run_encode_codes(params) -> dict[str, float]:
    run = LocalRun(f"encode_codes@{VARIANT}", "results/metrics")
    encode_codes(params, run, VARIANT)
    return json.loads(run.metrics_path.read_text())


def test_codes_are_the_models_own_in_evaluation_mode(params):
    import torch

    metrics = run_encode_codes(params)
    trained = load_trained(VARIANT, DATASET)
    number = 0
    for split, size in SPLITS.items():
        ids, top, bottom = read_codes(f"data/codes/{VARIANT}/{split}.parquet")
        assert top.shape == (size, 64) and bottom.shape == (size, 256)
        assert metrics["n_images" if split == "test" else f"{split}_n_images"] == size
        for row, image_id in enumerate(ids):  # one at a time: no dropout, nothing from its batch
            assert image_id == f"i{number:02}"
            with torch.no_grad():
                one = trained.model.encode_codes(
                    trained.features([image_id]), *trained.tokens([report_of(number)])
                )
            assert (top[row] == one[0][0].numpy()).mean() > 0.98  # a code on the border may fall either way
            assert (bottom[row] == one[1][0].numpy()).mean() > 0.98
            number += 1
    schema = pl.read_parquet_schema(f"data/codes/{VARIANT}/test.parquet")
    assert schema == {
        "image_id": pl.String,
        "top": pl.Array(pl.UInt16, 64),
        "bottom": pl.Array(pl.UInt16, 256),
    }


def test_codebook_use_of_known_codes(params, monkeypatch):
    """Top: code = image number, 8 test images. Bottom: codes 0 to 15, each as often as the others."""
    import torch

    def answer(numbers, *_):
        bottom = torch.arange(256).remainder(16).repeat(len(numbers), 1)
        return torch.tensor(numbers)[:, None].repeat(1, 64), bottom

    monkeypatch.setattr(
        stage,
        "load_trained",
        lambda variant, dataset: with_answers(load_trained(variant, dataset), encode_codes=answer),
    )
    metrics = run_encode_codes(params)
    assert metrics["perplexity_top"] == pytest.approx(8)
    assert metrics["entropy_bits_top"] == pytest.approx(3)
    assert metrics["used_fraction_top"] == pytest.approx(8 / 32)
    assert metrics["perplexity_bottom"] == pytest.approx(16)
    assert metrics["train_perplexity_top"] == pytest.approx(12)
    assert metrics["validate_entropy_bits_top"] == pytest.approx(2)


def test_a_split_without_reports_is_an_input_error(params):
    path = f"data/prepared/{DATASET}/validate.parquet"
    pl.read_parquet(path).with_columns(report=pl.lit(None, pl.String)).write_parquet(path)
    with pytest.raises(InputError, match=r"validate.parquet: none of its 4 images can be used"):
        run_encode_codes(params)


def test_table_round_trip_and_bad_codes(tmp_path):
    rng = np.random.default_rng(0)
    top, bottom = rng.integers(0, 2**16, (3, 64)), rng.integers(0, 512, (3, 256))
    path = tmp_path / "new" / "codes.parquet"
    write_codes(path, ["a", "b", "c"], top, bottom)
    ids, top_again, bottom_again = read_codes(path)
    assert ids == ["a", "b", "c"]
    assert (top_again == top).all() and (bottom_again == bottom).all()
    with pytest.raises(ValueError, match=r"bottom is"):
        write_codes(path, ["a", "b", "c"], top, top)
    with pytest.raises(ValueError, match=r"expected 0..65535"):
        write_codes(path, ["a", "b", "c"], top - 1 - top.min(), bottom)
    with pytest.raises(InputError, match=r"no such table"):
        read_codes(tmp_path / "none.parquet")
