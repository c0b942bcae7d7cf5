"""The process group of a training: size, rank, gathering and summing. With one process each answer is trivial."""

from typing import Any

import torch
import torch.distributed as dist


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def all_gather(x: torch.Tensor) -> torch.Tensor:
    """Gather the rows of all processes, in rank order: (n, ...) -> (world * n, ...).

    Every process must hold the same number of rows. Gradients flow back to their owners: the backward pass sums,
    over the processes, the gradients of each row. Averaging parameter gradients (as DDP does) then gives the gradient
    of the mean of the local losses.
    """
    if world_size() == 1:
        return x
    return _AllGather.apply(x)


def all_sum(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of x over the processes, without gradient."""
    if world_size() == 1:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def fetch_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return rows of the global batch, wherever they are, without gradient: x (n, ...) -> (m, ...).

    Only these rows travel between the processes, in the precision that they have: `all_gather` would bring all rows
    of all processes to each.

    Args:
        x: this process's rows, as many on each process.
        rows: the rows that this process asks for, (m,), numbered as in the result of `all_gather`; as many on each
            process.
    """
    x = x.detach()
    if world_size() == 1:
        return x[rows]
    owner, place = (all_gather(part) for part in (rows // len(x), rows % len(x)))
    owner, place = (
        owner.view(world_size(), -1),
        place.view(world_size(), -1),
    )  # a line for each process that asks
    sent = [x[there[who == rank()]] for who, there in zip(owner, place, strict=True)]
    order = owner[rank()].argsort(stable=True)  # of the rows asked for: process after process, as they come
    counts = torch.bincount(owner[rank()], minlength=world_size()).tolist()
    found = x.new_empty(len(rows), *x.shape[1:])
    dist.all_to_all_single(found, torch.cat(sent), counts, [len(part) for part in sent])
    return torch.empty_like(found).index_copy_(0, order, found)


def own_rows(n: int) -> slice:
    """Return where this process's n rows are in the result of `all_gather`."""
    return slice(rank() * n, (rank() + 1) * n)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.n = x.shape[0]
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        grad = grad_outputs[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad[own_rows(ctx.n)]
