"""Half precision under autocast: what is cast, and how often."""

import torch


def for_products(x: torch.Tensor) -> torch.Tensor:
    """x in the precision that matrix products take: autocast's, where it is on; otherwise x itself.

    Autocast casts weights once in a step, but what they are multiplied with anew for each product. Values do not
    change by casting here, once for all products that read x; gradients are then summed in that precision.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
