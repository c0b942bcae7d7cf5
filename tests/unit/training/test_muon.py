"""Muon: its update against a singular value decomposition, PyTorch's Muon and AdamW, and its resume."""

import pytest
import torch
from torch import nn

from medunifier.training.muon import Muon, orthogonal
from medunifier.training.optimizer import build_optimizer, parameter_groups
from tests.support.small_training import fit, loss, recipe


class Mixed(nn.Module):
    """A network with a linear map and a convolution, which Muon moves, and with what it does not."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 6)
        self.position = nn.Parameter(torch.randn(1, 6))
        self.conv = nn.Conv2d(1, 4, (1, 3))
        self.map = nn.Linear(4, 5)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 1)

    def forward(self, x):
        x = x + self.position + self.words(torch.arange(len(x)))
        return self.head(self.norm(self.map(torch.tanh(self.conv(x[:, None, None])).mean((2, 3)))))


MOVED = {"conv.weight", "map.weight"}


@pytest.mark.parametrize("shape", [(8, 20), (16, 16), (1, 5)])
def test_a_matrix_keeps_its_directions_and_each_weighs_about_the_same(shape):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(noise, full_matrices=False)
    matrix = u @ torch.diag(torch.logspace(-4, -2.5, len(s))) @ vh  # the largest 30 times the smallest
    inner = u.T @ orthogonal(matrix[None])[0] @ vh.T  # diagonal if the directions are the matrix's own
    assert ((inner.diagonal() > 0.91) & (inner.diagonal() < 1.09)).all()
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), atol=1e-4, rtol=0)


def test_a_matrix_of_zeros_stays():
    assert not orthogonal(torch.zeros(2, 3, 5)).any()


@pytest.mark.parametrize("size", [1e-5, 1e5, 1e10, 1e20, 1e30])
def test_the_size_of_a_gradient_does_not_matter(size):
    matrix = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonal(size * matrix), orthogonal(matrix), atol=1e-4, rtol=0)
    assert (
        orthogonal(1e-14 * matrix).abs().max() < 1e-3
    )  # but the noise of a gradient that is none does not move a weight


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_steps_are_those_of_a_singular_value_decomposition(shape):
    """The momenta's directions, all alike, at the root mean square of AdamW's updates; and about PyTorch's own Muon."""
    generator = torch.Generator().manual_seed(0)
    start, rate, decay = torch.randn(shape, generator=generator), 0.05, 0.1
    ours, theirs, exact = nn.Parameter(start.clone()), nn.Parameter(start.clone()), start.clone()
    beside = nn.Parameter(torch.randn(7, 12, generator=generator))  # of the same shape, up to a transposition
    group = {"params": [beside, ours], "orthogonal": True, "weight_decay": decay}
    mine = Muon([group], lr=rate, betas=(0.9, 0.95), fused=True)
    other = torch.optim.Muon([theirs], lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    momentum = torch.zeros(shape)
    for _ in range(6):
        gradient = torch.randn(shape, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        beside.grad = torch.randn(7, 12, generator=generator)
        mine.step()
        other.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        u, _, vh = torch.linalg.svd(0.95 * momentum + 0.05 * gradient, full_matrices=False)
        exact = (1 - rate * decay) * exact - rate * 0.2 * 12**0.5 * (u @ vh)
    moved = (exact - start).norm()
    assert (ours - exact).norm() < 0.09 * moved and moved > 0.1
    assert (theirs - exact).norm() < 0.4 * moved  # whose singular values are 0.7 to 1.2


def test_everything_else_moves_as_with_adamw():
    torch.manual_seed(0)
    muon, adamw = Mixed(), Mixed()
    adamw.load_state_dict(muon.state_dict())
    optimizers = [build_optimizer(muon, recipe(optimizer="muon")), build_optimizer(adamw, recipe())]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 0.01
    for _ in range(4):
        gradients = [torch.randn_like(p) for p in muon.parameters()]
        for model, optimizer in zip((muon, adamw), optimizers, strict=True):
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    same = {
        name: torch.equal(a, b)
        for (name, a), (_, b) in zip(muon.named_parameters(), adamw.named_parameters(), strict=True)
    }
    assert {name for name, equal in same.items() if not equal} == MOVED


def test_linear_maps_and_convolutions_but_for_heads_are_moved_by_muon():
    model = Mixed()
    *others, moved = parameter_groups(model, 0.05, muon_rate=3.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in moved["params"]} == MOVED
    assert moved["orthogonal"] and moved["weight_decay"] == 0.05 and moved["rate_scale"] == 3.0
    assert len(names) == sum(len(group["params"]) for group in [*others, moved])
    assert not any("orthogonal" in group for group in [*others, *parameter_groups(model, 0.05)])


@pytest.mark.parametrize("overflow", [True, False])
def test_a_loss_scaler_leaves_out_a_whole_step_after_an_overflow(overflow):
    model = Mixed()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, recipe(optimizer="muon"))
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(model(torch.randn(5, 6)).square().mean()).backward()
    if overflow:
        model.norm.weight.grad[0] = torch.inf
    scaler.step(optimizer)
    still = [torch.equal(before[name], p) for name, p in model.named_parameters() if name in MOVED]
    assert still == [overflow] * len(MOVED)


@pytest.mark.parametrize("stop_at", [1, 7])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, stop_at):
    torch.manual_seed(1)
    start = Mixed().state_dict()

    def new():
        model = Mixed()
        model.load_state_dict(start)
        return model

    chosen, calls = recipe(optimizer="muon"), iter(range(100))
    whole, history = fit(tmp_path / "whole", net=new(), chosen=chosen)

    def dies(model, batch, generator):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return loss(model, batch, generator)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts", net=new(), chosen=chosen, loss=dies)
    resumed, again = fit(tmp_path / "parts", net=new(), chosen=chosen)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert again.rows == history.rows
