"""The sampler is exact: compared with the full network position by position."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from medunifier.model.text import Text
from medunifier.synthesis.incremental import IncrementalPrior, PriorWeights
from medunifier.synthesis.sampler import Sampler, SamplingSettings, choose
from tests.support.priors import CODES, inputs, make_prior, make_text

SMALL = {"blocks": 1, "residual_blocks": 1}


def replay(prior, given: dict) -> torch.Tensor:
    """Logits (B, N, K) of the incremental forward, given the true codes."""
    codes = given["codes"]
    state = IncrementalPrior(PriorWeights(prior), len(codes), given.get("top"), given.get("text"))
    found = []
    for i in range(codes.shape[1]):
        found.append(state.logits())
        state.put(codes[:, i])
    return torch.stack(found, 1)


@pytest.mark.parametrize("level", ["top", "bottom"])
@pytest.mark.parametrize(
    ("attention", "text", "kernel"), [(True, True, 3), (False, True, 5), (True, False, 5), (False, False, 3)]
)
@torch.inference_mode()
def test_logits_are_those_of_the_full_forward(level, attention, text, kernel):
    prior, given = (
        make_prior(level, text=text, attention=attention, kernel=kernel),
        inputs(level, 5, text=text),
    )
    full = prior(**given)
    assert full.std() > 0.3
    assert (replay(prior, given) - full).abs().max() < 1e-5
    prior, given = prior.double(), inputs(level, 2, text=text)  # exact: nothing but rounding is left
    if text:
        given["text"] = given["text"]._replace(states=given["text"].states.double())
    assert (replay(prior, given) - prior(**given)).abs().max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@torch.inference_mode()
def test_codes_equal_those_of_the_slow_sampler(guidance):
    """The oracle recomputes the whole network for each position, with and without the text."""
    priors, text = [make_prior(level, text=True, **SMALL) for level in ("top", "bottom")], make_text(2)
    seeds = [5, 6]
    settings = SamplingSettings(guidance=guidance, temperature=0.8, top_p=0.9)
    found = Sampler(*priors).sample(text, seeds=seeds, settings=settings)
    uniforms = torch.stack(
        [torch.rand(320, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
    )
    top = None
    for prior, sampled, randoms in zip(priors, found, uniforms.split((64, 256), 1), strict=True):
        codes = torch.zeros_like(sampled)
        for i in range(codes.shape[1]):
            logits = prior(codes, top, text)[:, i]
            if guidance != 1:
                without = prior(codes, top)[:, i]
                logits = without + guidance * (logits - without)
            codes[:, i] = choose(logits, randoms[:, i], settings)
        assert torch.equal(sampled, codes)
        top = codes


@pytest.mark.slow
@pytest.mark.parametrize(("text", "guidance"), [(False, 1.0), (True, 1.0), (True, 2.0)])
def test_a_seed_gives_the_same_codes_in_a_batch_of_any_size(text, guidance):
    sampler = Sampler(*(make_prior(level, text=text, **SMALL).double() for level in ("top", "bottom")))
    texts, seeds = make_text(13), list(range(13))

    def sample(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = type(texts)(texts.states[rows], texts.mask[rows]) if text else None
        settings = SamplingSettings(guidance=guidance)
        return sampler.sample(chosen, seeds=[seeds[row] for row in rows], settings=settings)

    whole = sample(seeds)
    assert len({tuple(row.tolist()) for row in whole[1]}) == 13
    for rows in ([12], [3, 1], [0, 1, 2, 3], [7, 6, 5, 4, 3]):
        for part, all_of_them in zip(sample(rows), whole, strict=True):
            assert torch.equal(part, all_of_them[rows])


@pytest.mark.slow
@torch.inference_mode()
def test_rounding_that_depends_on_the_batch_size_is_negligible_in_double_precision():
    """At the paper's width products of other sizes round differently; no code may depend on it."""
    sizes = {"channels": 256, "residual_channels": 256, "kernel": 5, "heads": 8, "blocks": 1}
    prior = make_prior("top", text=True, **sizes).double()
    codes, text = inputs("top", 16)["codes"], make_text(16)
    text = Text(text.states.double(), text.mask)
    whole = replay(prior, {"codes": codes, "text": text})
    for rows in ([0], [1, 2], [3, 4, 5, 6], list(range(7, 16))):
        part = replay(prior, {"codes": codes[rows], "text": Text(text.states[rows], text.mask[rows])})
        assert (part - whole[rows]).abs().max() < 1e-12


def test_codes_are_sampled_as_often_as_their_probabilities_say():
    """Over evenly spread uniforms the counts are the distribution, after temperature, top-k and top-p."""
    logits = torch.randn(1, CODES, generator=torch.Generator().manual_seed(0)) * 2
    uniforms = (torch.arange(50_000, dtype=torch.float64) + 0.5) / 50_000

    def shares(**settings) -> np.ndarray:
        codes = choose(logits.expand(len(uniforms), -1), uniforms, SamplingSettings(**settings))
        return np.bincount(codes, minlength=CODES) / len(uniforms)

    plain = logits.double().softmax(-1)[0].numpy()
    np.testing.assert_allclose(shares(), plain, atol=1e-4)
    warm = (logits.double() / 0.5).softmax(-1)[0].numpy()
    np.testing.assert_allclose(shares(temperature=0.5), warm, atol=1e-4)
    order = np.argsort(-plain)
    kept = np.where(np.isin(np.arange(CODES), order[:3]), plain, 0)
    np.testing.assert_allclose(shares(top_k=3), kept / kept.sum(), atol=1e-4)
    number = int(np.searchsorted(np.cumsum(plain[order]), 0.8)) + 1  # fewest codes that hold 80 %
    kept = np.where(np.isin(np.arange(CODES), order[:number]), plain, 0)
    np.testing.assert_allclose(shares(top_p=0.8), kept / kept.sum(), atol=1e-4)
    # one after the other: temperature, top-k, and top-p of what top-k has left
    warm_order = np.argsort(-warm)
    three = np.where(np.isin(np.arange(CODES), warm_order[:3]), warm, 0) / warm[warm_order[:3]].sum()
    assert warm[warm_order[:2]].sum() < 0.85 < three[warm_order[:2]].sum()
    two = np.where(np.isin(np.arange(CODES), warm_order[:2]), warm, 0)
    np.testing.assert_allclose(shares(temperature=0.5, top_k=3, top_p=0.85), two / two.sum(), atol=1e-4)
    assert shares(top_p=1e-9).max() == shares(top_k=1).max() == shares(temperature=0).max() == 1
    assert (
        shares(top_p=1e-9).argmax() == shares(top_k=1).argmax() == shares(temperature=0).argmax() == order[0]
    )


def test_uniforms_of_the_seeds_are_uniform():
    """The first code of many images follows the network's first distribution."""
    prior, bottom = (
        make_prior("top", attention=False, blocks=1),
        make_prior("bottom", attention=False, blocks=1),
    )
    with torch.inference_mode():
        expected = prior(torch.zeros(1, 64, dtype=torch.long))[0, 0].softmax(-1)
    top, _ = Sampler(prior, bottom).sample(seeds=range(400))
    counts = torch.bincount(top[:, 0], minlength=CODES)
    assert (
        chisquare(counts.numpy(), (expected.double() / expected.double().sum() * 400).numpy()).pvalue > 1e-3
    )


def test_priors_texts_and_settings_that_do_not_fit_are_rejected():
    top, bottom = make_prior("top", text=True), make_prior("bottom", text=True)
    with pytest.raises(ValueError, match="the top prior is one of level bottom"):
        Sampler(bottom, top)
    with pytest.raises(ValueError, match="training mode"):
        Sampler(make_prior("top").train(), bottom)
    with pytest.raises(ValueError, match="one prior takes a text"):
        Sampler(make_prior("top"), bottom)
    with pytest.raises(ValueError, match="guidance needs a text"):
        Sampler(top, bottom).sample(seeds=[0], settings=SamplingSettings(guidance=2.0))
    with pytest.raises(ValueError, match="3 texts for 2 seeds"):
        Sampler(top, bottom).sample(make_text(3), seeds=[0, 1])
    with pytest.raises(ValueError, match="trained without text"):
        Sampler(make_prior("top"), make_prior("bottom")).sample(make_text(1), seeds=[0])
    wrong_values = (
        *({"temperature": -1.0}, {"temperature": "1"}, {"temperature": float("nan")}, {"guidance": None}),
        *({"top_k": 0}, {"top_k": 2.5}, {"top_p": 0.0}, {"top_p": 1.5}, {"guidance": True}),
    )
    for wrong in wrong_values:
        with pytest.raises(ValueError, match="expected a temperature"):
            SamplingSettings(**wrong)
