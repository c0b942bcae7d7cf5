"""Where autocast's half precision is used, each cast made once, and where full precision is kept.

The network's products run in half precision under autocast. What compares its outputs (embeddings, similarities,
logits of two classes, latents of unit length, losses) is computed in float32: it costs next to nothing there, and
half precision would leave few different values (8 among 128 cosines of similar reports).
"""

from typing import Any

import torch


def full_precision(x: torch.Tensor) -> torch.autocast:
    """Return a context without autocast on the device of x: operations run in the precision of their inputs."""
    return torch.autocast(x.device.type, enabled=False)


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Return x in float32 if it is in half precision, otherwise x itself."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def for_products(x: torch.Tensor) -> torch.Tensor:
    """Return x in autocast's precision where autocast is on, otherwise x itself.

    Autocast casts weights once in a step, but casts their inputs again for each product. One cast here serves all
    products that read x. Values are the same; gradients are then summed in that precision.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def for_residual_and_products(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x for the residual, and x as `for_products` gives it.

    Their gradients are added without a cast, in one operation; otherwise autograd would first cast one of them and
    write it out.
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.get_autocast_dtype(kind):
        return x, x
    return _ForResidualAndProducts.apply(x, torch.get_autocast_dtype(kind))


class _ForResidualAndProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return x.view_as(x), x.to(dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        residual, product = grad_outputs
        return residual + product, None
