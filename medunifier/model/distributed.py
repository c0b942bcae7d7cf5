"""Every question that a model asks about its process group. With one process each answer is trivial."""

import torch
import torch.distributed as dist


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if world_size() > 1 else 0


def all_gather(x: torch.Tensor) -> torch.Tensor:
    """Rows of all processes, in rank order: [n, ...] -> [world * n, ...]; gradients flow back to their owners.

    Every process must hold the same number of rows. The backward pass sums, over the processes, the
    gradients that each has for a row, so that averaging parameter gradients (as DDP does) gives the
    gradient of the mean of the local losses.
    """
    if world_size() == 1:
        return x
    return _AllGather.apply(x)


def all_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum over the processes, without gradient."""
    if world_size() == 1:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def own_rows(n: int) -> slice:
    """Where this process's n rows stand in what `all_gather` returns."""
    return slice(rank() * n, (rank() + 1) * n)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        ctx.n = x.shape[0]
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad[own_rows(ctx.n)]
