"""The optimizer with its parameter groups, and deterministic algorithms."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from medunifier.training.muon import Muon
from medunifier.training.recipe import Recipe

NO_DECAY = ("position", "query_tokens", "codebook")  # matrices by shape, embeddings by what they do
MAPS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
HEADS = ("head", "projection")  # of a loss each: they learn better with AdamW (Jordan et al. 2024)


def build_optimizer(
    model: nn.Module, recipe: Recipe, groups: list[dict[str, Any]] | None = None
) -> torch.optim.AdamW:
    """Return the optimizer of a recipe for a model; its learning rate is set before each step.

    Args:
        model: whose parameters are trained.
        recipe: optimizer, betas and weight decay.
        groups: parameter groups; None: `parameter_groups`.
    """
    muon = recipe.optimizer == "muon"
    rate = recipe.muon_rate if muon else None
    groups = groups or parameter_groups(model, recipe.weight_decay, recipe.decay_all, rate)
    kind = Muon if muon else torch.optim.AdamW
    return kind(groups, lr=0.0, betas=recipe.betas, fused=True)  # fused saves a tenth of the demo's step


def parameter_groups(
    model: nn.Module, weight_decay: float, decay_all: bool = False, muon_rate: float | None = None
) -> list[dict[str, Any]]:
    """Return the optimizer's groups: weight decay on matrices only, or on everything with `decay_all`.

    Biases, norms, scalars, position embeddings, query tokens and codebooks are exempt. With `muon_rate` the weights of
    linear maps and convolutions, but for the heads, are a group of their own, marked `orthogonal`; its learning rate is
    `muon_rate` times that of the others.
    """
    maps = {id(module.weight) for module in model.modules() if muon_rate and isinstance(module, MAPS)}
    orthogonal, decay, rest = [], [], []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and not any(word in name for word in NO_DECAY)
        if id(parameter) in maps and not any(word in name for word in HEADS):
            orthogonal.append(parameter)
        else:
            (decay if matrix or decay_all else rest).append(parameter)
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    moved = {"params": orthogonal, "weight_decay": weight_decay, "orthogonal": True, "rate_scale": muon_rate}
    groups.append(moved)
    return [group for group in groups if group["params"]]


@contextmanager
def deterministic_algorithms(strict: bool = True) -> Iterator[None]:
    """Inside `with`, every sum has a fixed order, so that the same run gives the same bits.

    PyTorch would also fill uninitialized memory in this mode; that stays off.

    Args:
        strict: an operation without a deterministic algorithm on this device raises RuntimeError. False: it warns
            and runs; attention then uses its faster, non-deterministic backward pass on a GPU.
    """
    before = torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic  # its attribute is made at import
    fill = memory.fill_uninitialized_memory
    # `torch.use_deterministic_algorithms` does the same, but imports the compiler first
    torch.set_deterministic_debug_mode("error" if strict else "warn")
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        memory.fill_uninitialized_memory = fill
