"""The prior's network: causality of every position, and the conditions on top codes and text."""

import json
import subprocess
import sys

import pytest
import torch

from medunifier.model.text import Text
from medunifier.runtime.params import load_params
from medunifier.synthesis.pixelsnail import Prior
from medunifier.synthesis.pixelsnail_blocks import CausalConv
from medunifier.synthesis.prior_config import PriorConfig
from medunifier.synthesis.prior_training import normalise_weights, plain_weights
from tests.support.paths import REPO
from tests.support.priors import inputs, make_prior

SMALL = {"residual_blocks": 1, "channels": 8, "residual_channels": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "attention", "text", "kernel"),
    [
        ("top", True, True, 5),
        ("top", False, False, 3),
        ("bottom", False, False, 5),
        ("bottom", True, True, 3),
    ],
)
def test_logits_depend_on_all_earlier_positions_and_on_no_other(level, attention, text, kernel):
    """By gradients, at every position: zero from itself and all later ones, not zero from the one before."""
    prior = make_prior(level, text=text, attention=attention, kernel=kernel, **SMALL).requires_grad_(False)
    given = inputs(level, 1, text=text)
    embedded = prior.embedding(given["codes"]).requires_grad_()
    prior.embedding.forward = lambda codes: embedded
    logits = prior(**given)[0]  # (N, K)
    some = logits @ torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(0))
    for i in range(len(logits)):
        (gradient,) = torch.autograd.grad(some[i], embedded, retain_graph=True)
        reached = gradient[0].abs().sum(-1) > 0  # (N,)
        assert not reached[i:].any(), f"position {i} depends on the present or the future"
        if attention:  # everything before
            assert reached[:i].all(), f"position {i} misses {(~reached[:i]).nonzero().flatten().tolist()}"
        elif i % prior.grid:
            assert reached[i - 1]


@pytest.mark.parametrize("level", ["top", "bottom"])
def test_the_first_rows_alone_give_their_logits(level):
    prior = make_prior(level, text=True, attention=True, kernel=5, **SMALL)
    given = inputs(level, 2, text=True)
    whole, n = prior(**given), 3 * prior.grid
    torch.testing.assert_close(prior(**given | {"codes": given["codes"][:, :n]}), whole[:, :n])


def test_a_causal_convolution_is_a_masked_one():
    conv = CausalConv(3, 4, 5)
    x = torch.randn(2, 3, 8, 8)
    kernel = torch.zeros(4, 3, 9, 5)  # 4 rows above, the row itself, 4 rows below
    kernel[:, :, :4] = conv.above.weight
    kernel[:, :, 4, :2] = conv.left.weight[:, :, 0]
    masked = torch.nn.functional.conv2d(x, kernel, conv.above.bias, padding=(4, 2))
    torch.testing.assert_close(conv(x), masked)
    assert conv.above.weight[0, 0].numel() + conv.left.weight[0, 0].numel() == 5 * 4 + 2


def test_bottom_codes_depend_on_every_top_code():
    prior = make_prior("bottom", attention=False)
    given = inputs("bottom", 1)
    before = prior(**given)
    for place in (0, 27, 63):
        other = given["top"].clone()
        other[0, place] = (other[0, place] + 1) % prior.config.codebook_size
        changed = (prior(given["codes"], other) != before).any(-1)[0].view(16, 16)
        row, column = divmod(place, 8)
        assert changed[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].all()


@pytest.mark.parametrize("level", ["top", "bottom"])
def test_text_reaches_every_position_and_padding_does_not(level):
    prior = make_prior(level, text=True, attention=False)
    given = inputs(level, 3, text=True)
    before, text = prior(**given), given["text"]
    noise = torch.randn_like(text.states)
    padding = Text(torch.where(text.mask[..., None], text.states, noise), text.mask)
    torch.testing.assert_close(prior(**given | {"text": padding}), before)
    words = Text(torch.where(text.mask[..., None], noise, text.states), text.mask)
    assert (prior(**given | {"text": words}) != before).any(-1).all()


@pytest.mark.parametrize("level", ["top", "bottom"])
def test_a_text_without_tokens_is_no_text(level):
    prior = make_prior(level, text=True)
    given = inputs(level, 2, text=True)
    text = given.pop("text")
    empty = Text(text.states, torch.zeros_like(text.mask))
    without = prior(**given)
    torch.testing.assert_close(prior(**given, text=empty), without)
    assert (prior(**given, text=text) - without).abs().max() > 1e-3


@pytest.mark.parametrize("level", ["top", "bottom"])
def test_the_cls_token_reaches_every_position_without_attention(level):
    """The [CLS] state is added to every position; attention to the tokens is switched off here."""
    prior = make_prior(level, text=True, attention=False)
    given = inputs(level, 2, text=True)
    text = given.pop("text")
    for block in prior.blocks:
        block.text_attention.value.weight.data.zero_()
    before = prior(**given, text=text)
    for token, matters in ((0, True), (1, False)):
        changed = text.states.clone()
        changed[:, token] = torch.randn_like(changed[:, token])
        differs = ((prior(**given, text=Text(changed, text.mask)) - before).abs() > 1e-5).any(-1)
        assert differs.all() if matters else not differs.any()


def test_inputs_and_sizes_that_do_not_fit_are_rejected():
    top, bottom = make_prior("top"), make_prior("bottom")
    given = inputs("bottom", 2, text=True)
    with pytest.raises(ValueError, match="takes the top codes"):
        bottom(given["codes"])
    with pytest.raises(ValueError, match="takes no top codes"):
        top(given["codes"][:, :64], given["top"])
    with pytest.raises(ValueError, match="trained without text"):
        bottom(**given)
    with pytest.raises(ValueError, match="must be odd"):
        make_prior("top", kernel=4)
    with pytest.raises(ValueError, match="multiple of the heads"):
        make_prior("top", heads=3)


def test_the_preset_paper_has_the_sizes_of_the_authors_code():
    """Those are the defaults; the bottom level has no causal attention."""
    prior = load_params(REPO / "workflow/presets/paper.yaml").prior
    assert prior.condition == "none" and prior.top_blocks == PriorConfig().top_blocks
    for level, attention in ((prior.top, True), (prior.bottom, False)):
        config = PriorConfig(attention=attention)
        for name in (
            "channels",
            "kernel",
            "blocks",
            "residual_blocks",
            "residual_channels",
            "attention",
            "heads",
            "dropout",
        ):
            assert getattr(level, name) == getattr(config, name)


def test_a_saved_prior_loads_unchanged(tmp_path):
    prior = make_prior("bottom", text=True)
    prior.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded, given = Prior.from_pretrained(tmp_path), inputs("bottom", 2, text=True)
    assert not loaded.training
    assert torch.equal(loaded(**given), prior(**given))


def test_a_prior_that_transformers_saved_loads_too(tmp_path):
    prior = make_prior("top", text=True)
    prior.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    extra = {"architectures": ["Prior"], "dtype": "float32", "transformers_version": "5.23.0"}
    (tmp_path / "config.json").write_text(json.dumps(config | extra))
    assert Prior.from_pretrained(tmp_path).config == prior.config


@pytest.mark.slow
def test_training_a_prior_needs_no_model_of_transformers():
    code = "import sys, stages.train_prior; sys.exit('transformers.modeling_utils' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False).returncode == 0


@pytest.mark.slow
def test_it_learns_a_rule_that_the_text_selects():
    """Codes follow from the code two rows above in one of two ways that the text selects: certain after training."""
    torch.manual_seed(0)
    prior = make_prior("top", text=True, attention=False, residual_blocks=1).train()
    prior.config.dropout = 0.0
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    for _ in range(80):
        shift = torch.randint(2, (8,))
        rows = [torch.randint(20, (8, 2, 8))]
        for _ in range(3):
            rows.append((rows[-1] + shift[:, None, None]) % 20)
        codes = torch.cat(rows, 1).flatten(1)
        states = torch.nn.functional.one_hot(shift, 12).float()[:, None]
        logits = prior(codes, text=Text(states, torch.ones(8, 1)))
        loss = torch.nn.functional.cross_entropy(logits[:, 16:].flatten(0, 1), codes[:, 16:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3  # log 20 = 3.0 at the start, log 2 = 0.69 without the text


@pytest.mark.parametrize("level", ["top", "bottom"])
def test_weight_normalisation_changes_the_gradients_alone_and_leaves_no_trace(level):
    """Against its definition: w = g v / |v|, for each output of a layer."""
    prior, given = make_prior(level, **SMALL), inputs(level, 2)
    names, before = list(prior.state_dict()), prior(**given).detach()
    normalise_weights(prior)
    torch.testing.assert_close(prior(**given).detach(), before, rtol=1e-5, atol=1e-5)
    layers = [m for m in prior.modules() if hasattr(m, "parametrizations")]
    assert len(layers) == sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in prior.modules())
    optimizer = torch.optim.SGD(prior.parameters(), lr=0.1)
    prior(**given).square().mean().backward()
    optimizer.step()
    leave = prior.leave.parametrizations.weight
    g, v = leave.original0.detach(), leave.original1.detach()
    trained, expected = prior(**given).detach(), g * v / v.norm(dim=1, keepdim=True)
    plain_weights(prior)
    torch.testing.assert_close(prior.leave.weight.detach(), expected)
    torch.testing.assert_close(prior(**given).detach(), trained, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(trained, before)
    assert sorted(prior.state_dict()) == sorted(names)
