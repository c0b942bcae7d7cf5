"""The same training step gives the same bits, on a GPU too, where some sums have no fixed order.

Without a GPU, it is checked that no such operation is called.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from medunifier.evaluation.classifier import Classifier, QueryEncoder
from medunifier.training.optimizer import deterministic_algorithms
from tests.support.priors import CODES, inputs, make_prior
from tests.unit.model.test_distributed import case

# after the documentation of torch.use_deterministic_algorithms: what raises on a GPU
NO_FIXED_ORDER = {
    *(f"aten::upsample_{kind}_backward" for kind in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")),
    *(f"aten::_upsample_{kind}_aa_backward" for kind in ("bilinear2d", "bicubic2d")),
    *(f"aten::_adaptive_avg_pool{n}d_backward" for n in (2, 3)),
    *(f"aten::adaptive_max_pool{n}d_backward" for n in (2, 3)),
    *(f"aten::{kind}_pad{n}d_backward" for kind in ("reflection", "replication") for n in (1, 2, 3)),
    "aten::grid_sampler_2d_backward",
    "aten::max_pool3d_with_indices_backward",
    "aten::nll_loss2d_forward",
    "aten::histc",
    "aten::kthvalue",
    "aten::put_",
}
FLOAT_ONLY = {"aten::cumsum", "aten::bincount"}


class Called(TorchDispatchMode):
    """Names of the operations inside `with` that have no fixed order on a GPU."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        floats = any(isinstance(a, torch.Tensor) and a.is_floating_point() for a in args)
        if name in NO_FIXED_ORDER or (name in FLOAT_ONLY and floats):
            self.names.add(name)
        return func(*args, **(kwargs or {}))


def pretraining() -> tuple[nn.Module, Callable[[torch.device], torch.Tensor]]:
    """A model with dropout, and its loss of a batch."""
    model, batch = case(dropout=0.1)

    def loss(device: torch.device) -> torch.Tensor:
        inputs = {name: value.to(device) for name, value in batch.items()}
        return model(**inputs, generator=torch.Generator().manual_seed(1)).total

    return model, loss


def classifier() -> tuple[nn.Module, Callable[[torch.device], torch.Tensor]]:
    """The Q-Former's query outputs, and a classification head."""
    model, batch = case(dropout=0.1)
    net = Classifier(QueryEncoder(model), 3)
    nn.init.normal_(net.head.weight)
    return net, lambda device: net(batch["features"].to(device)).square().mean()


def prior(level: str) -> tuple[nn.Module, Callable[[torch.device], torch.Tensor]]:
    """A prior of one level that reads texts."""
    net, given = make_prior(level, text=True), inputs(level, 3, text=True)

    def loss(device: torch.device) -> torch.Tensor:
        codes, top = given["codes"].to(device), given.get("top")
        text = type(given["text"])(*(part.to(device) for part in given["text"]))
        logits = net(codes, top if top is None else top.to(device), text)
        return F.cross_entropy(logits.reshape(-1, CODES), codes.flatten())

    return net, loss


TRAININGS = {
    "pretraining": pretraining,
    "classifier": classifier,
    "top prior": lambda: prior("top"),
    "bottom prior": lambda: prior("bottom"),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_no_training_step_needs_a_sum_without_a_fixed_order(name):
    net, loss = TRAININGS[name]()
    net.train()
    with Called() as called, deterministic_algorithms():
        loss(torch.device("cpu")).backward()
    assert called.names == set()


def test_such_a_sum_would_be_seen():
    image = torch.randn(1, 1, 4, 8, requires_grad=True)
    with Called() as called:
        F.interpolate(image, size=(8, 8), mode="bilinear").cumsum(2).sum().backward()
    assert called.names == {"aten::upsample_bilinear2d_backward", "aten::cumsum"}


def test_strict_refuses_what_it_otherwise_warns_of():
    """`put_` is refused on every device."""
    numbers, at, value = torch.zeros(3), torch.tensor([1]), torch.ones(1)
    with deterministic_algorithms(), pytest.raises(RuntimeError, match="deterministic"):
        numbers.put_(at, value)
    with deterministic_algorithms(strict=False), pytest.warns(UserWarning, match="deterministic"):
        numbers.put_(at, value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; on a CPU see test_loop.py")
@pytest.mark.parametrize("name", TRAININGS)
def test_the_same_step_gives_the_same_bits_on_a_gpu(name):
    """Attention sums its gradients in any order there unless it is asked strictly."""
    net, loss = TRAININGS[name]()
    device = torch.device("cuda")
    net.to(device).train()
    start, found = {key: value.clone() for key, value in net.state_dict().items()}, []
    for _ in range(3):
        net.load_state_dict(start)
        net.zero_grad()
        torch.manual_seed(2)
        with deterministic_algorithms():
            with torch.autocast("cuda", torch.bfloat16):
                total = loss(device)
            total.backward()
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, found[0], strict=True))
