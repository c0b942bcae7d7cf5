"""The stage train_prior on a tiny project: what it learns, measures and leaves."""

import csv
import json

import numpy as np
import polars as pl
import pytest
import torch

from medunifier.evaluation.loading import load_trained
from medunifier.runtime.errors import InputError
from medunifier.synthesis.codes import write_codes
from medunifier.synthesis.generator import load_priors
from medunifier.synthesis.pixelsnail import Prior
from medunifier.synthesis.prior_training import PriorTexts, build_prior
from medunifier.synthesis.sampler import Sampler, SamplingSettings
from medunifier.tracking import LocalRun
from medunifier.training.batch_order import mix
from stages import train_prior as stage
from tests.support.trained_project import SPLITS, VARIANT, make_project, report_of

SIZES = {
    "channels": 8,
    "kernel": 3,
    "blocks": 1,
    "residual_blocks": 1,
    "residual_channels": 4,
    "heads": 2,
    "steps": 30,
    "batch_size": 4,
    "learning_rate": 1e-2,
}


def tiny(params, **changes):
    """The shipped parameters with networks small enough for a test."""
    p = params.prior
    levels = {level: getattr(p, level).replace(**SIZES) for level in ("top", "bottom")}
    return params.replace(prior=p.replace(**levels, **changes))


@pytest.fixture
def params(tmp_path, monkeypatch):
    """Codes that the report determines: all of an image's are n for finding n, except a few at random."""
    monkeypatch.chdir(tmp_path)
    params = make_project(tmp_path)
    rng, start = np.random.default_rng(0), 0
    for split, size in SPLITS.items():
        numbers = np.arange(start, start + size)
        codes = [
            np.where(rng.random((size, n)) < 0.05, rng.integers(0, 32, (size, n)), numbers[:, None] % 2)
            for n in (64, 256)
        ]
        write_codes(f"data/codes/{VARIANT}/{split}.parquet", [f"i{n:02}" for n in numbers], *codes)
        start += size
    return tiny(params)


def run_stage(params, level: str, signature: str = "a") -> dict[str, float]:
    run = LocalRun(f"train_prior@{VARIANT}-{level}", "results/metrics", signature)
    stage.train_prior(params, run, VARIANT, level)
    return json.loads(run.metrics_path.read_text())


def test_learns_and_measures_against_the_unigram(params):
    metrics = run_stage(params, "top")
    codes = np.stack(pl.read_parquet(f"data/codes/{VARIANT}/train.parquet")["top"].to_numpy())
    counts = np.bincount(codes.ravel())
    by_hand = -sum(n / counts.sum() * np.log2(n / counts.sum()) for n in counts if n)
    assert metrics["unigram_bits"] == pytest.approx(by_hand)
    assert metrics["bits_per_code"] < metrics["unigram_bits"]
    assert metrics["bits_per_code_ci_low"] <= metrics["bits_per_code"] <= metrics["bits_per_code_ci_high"]
    assert metrics["bits_per_code_n"] == SPLITS["validate"]

    prior = Prior.from_pretrained(f"models/priors/{VARIANT}-top")
    validate = torch.tensor(
        np.stack(pl.read_parquet(f"data/codes/{VARIANT}/validate.parquet")["top"]).astype(int)
    )
    text = load_trained(VARIANT).read_texts([report_of(n) for n in range(12, 16)])
    with torch.no_grad():
        for name, given in (("bits_per_code", text), ("bits_per_code_without_text", None)):
            shares = prior(validate, text=given).softmax(-1).gather(-1, validate[..., None])
            assert metrics[name] == pytest.approx(float(-shares.log2().mean()), rel=1e-4)
    with open(f"results/curves/train_prior@{VARIANT}-top.csv", newline="") as file:
        curve = [row for row in csv.DictReader(file) if row["split"] == "validate"]
    assert float(curve[0]["bits_per_code"]) > float(curve[-1]["bits_per_code"])
    assert float(curve[-1]["bits_per_code"]) == pytest.approx(metrics["bits_per_code"], rel=1e-4)


@pytest.mark.slow
def test_priors_generate_codes_once_both_levels_are_trained(params):
    trained = load_trained(VARIANT)
    with pytest.raises(InputError, match="run train_prior@full-top first"):
        load_priors(VARIANT, trained)
    for level in ("top", "bottom"):
        run_stage(params, level)
    sampler, texts = Sampler(*load_priors(VARIANT, trained)), trained.read_texts([report_of(1)] * 2)
    top, bottom = sampler.sample(texts, seeds=[0, 1], settings=SamplingSettings(guidance=2.0))
    assert top.shape == (2, 64) and bottom.shape == (2, 256)


def test_without_text_it_takes_none(params):
    metrics = run_stage(tiny(params, condition="none"), "bottom")
    assert "bits_per_code_without_text" not in metrics
    assert Prior.from_pretrained(f"models/priors/{VARIANT}-bottom").config.text_width == 0


@pytest.mark.slow
def test_same_seed_same_weights(params):
    def weights(signature: str, **changes) -> dict[str, torch.Tensor]:
        run_stage(params.replace(**changes), "top", signature)
        return Prior.from_pretrained(f"models/priors/{VARIANT}-top").state_dict()

    one, again, other = weights("a"), weights("b"), weights("c", seed=1)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["leave.weight"], other["leave.weight"])


def test_texts_are_dropped_at_the_given_rate_and_in_training_alone(params):
    trained = load_trained(VARIANT)
    texts = PriorTexts(trained, 0.25)
    batch = texts.pad(texts.tokenize([report_of(1)] * 2000))
    torch.manual_seed(0)
    kept = texts.encode(batch, drop=True).mask.bool().any(1)
    assert 0.22 < 1 - kept.float().mean() < 0.28
    assert texts.encode(batch).mask.bool().any(1).all()


@pytest.mark.slow
def test_text_weights_do_not_learn_where_every_text_is_dropped(params):
    """With every text dropped nothing teaches the text's weights; weight decay only shortens them."""

    def weights(dropout: float) -> torch.Tensor:
        run_stage(tiny(params, condition_dropout=dropout), "top", str(dropout))
        prior = Prior.from_pretrained(f"models/priors/{VARIANT}-top")
        return prior.text_reader.whole.weight.flatten()

    torch.manual_seed(mix(params.seed, 0))
    start = build_prior(params, "top", load_trained(VARIANT)).text_reader.whole.weight.flatten()

    def turned(found: torch.Tensor) -> bool:
        return torch.cosine_similarity(start, found, dim=0) < 0.9999

    assert turned(weights(0.0)) and not turned(weights(1.0))


def test_a_text_reads_the_same_alone_and_among_others(params):
    trained, reports = load_trained(VARIANT), [report_of(1), "Clear.", report_of(5)]
    together = trained.read_texts(reports)
    assert together.states.shape == (3, trained.model.config.max_text_tokens, trained.model.config.width)
    for i, report in enumerate(reports):
        alone = trained.read_texts([report])
        assert torch.equal(alone.states[0], together.states[i]) and torch.equal(
            alone.mask[0], together.mask[i]
        )
    cls, _ = trained.model.encode_text(*trained.tokens(reports[:1]))
    torch.testing.assert_close(together.states[:1, 0], cls)


def test_codes_of_other_images_are_refused(params):
    write_codes(
        f"data/codes/{VARIANT}/validate.parquet", ["new"], np.zeros((1, 64), int), np.zeros((1, 256), int)
    )
    with pytest.raises(InputError, match="1 images are not in data/prepared/phantom"):
        run_stage(params, "top")


@pytest.mark.slow
def test_with_weight_normalisation_it_leaves_the_same_kind_of_prior(params):
    """Other training, the same network: the same keys in its file, and metrics of what is saved."""
    run_stage(params, "top")
    plain = Prior.from_pretrained(f"models/priors/{VARIANT}-top").state_dict()
    metrics = run_stage(params.replace(prior=params.prior.replace(weight_norm=True)), "top", "b")
    prior = Prior.from_pretrained(f"models/priors/{VARIANT}-top")
    found = prior.state_dict()
    assert list(found) == list(plain) and metrics["parameters"] == sum(p.numel() for p in prior.parameters())
    assert any(not torch.equal(found[name], plain[name]) for name in plain)
    assert metrics["bits_per_code"] < metrics["unigram_bits"]
    validate = np.stack(pl.read_parquet(f"data/codes/{VARIANT}/validate.parquet")["top"]).astype(int)
    text = load_trained(VARIANT).read_texts([report_of(n) for n in range(12, 16)])
    codes = torch.tensor(validate)
    with torch.no_grad():
        shares = prior(codes, text=text).softmax(-1).gather(-1, codes[..., None])
    assert metrics["bits_per_code"] == pytest.approx(float(-shares.log2().mean()), rel=1e-4)
