"""Half precision under autocast: what is cast, and how often."""

import torch


def for_products(x: torch.Tensor) -> torch.Tensor:
    """X in the precision that matrix products take: autocast's, where it is on; otherwise x itself.

    Autocast casts weights once in a step, but what they are multiplied with anew for each product. Values do not
    change by casting here, once for all products that read x; gradients are then summed in that precision.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def for_residual_and_products(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """X for the residual, and x `for_products`.

    Their gradients are added as they are, in one operation; otherwise autograd would first cast one of them and write
    it out.
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.get_autocast_dtype(kind):
        return x, x
    return _ForResidualAndProducts.apply(x, torch.get_autocast_dtype(kind))


class _ForResidualAndProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return x.view_as(x), x.to(dtype)

    @staticmethod
    def backward(ctx, residual: torch.Tensor, product: torch.Tensor) -> tuple[torch.Tensor, None]:
        return residual + product, None
