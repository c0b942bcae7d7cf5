"""Muon, an optimizer for the weights of linear maps and convolutions (Jordan et al. 2024)."""

from collections import defaultdict

import torch

MOMENTUM = 0.95
# a, b, c of the polynomials a s + b s^3 + c s^5 that one after the other bring a singular value s near 1. Each is the one
# with the smallest largest error on what the last one leaves of [0.005, 1] (Amsel et al. 2025, arXiv:2505.16932), by linear
# programming on 6000 points. These four come closer to 1 on the demo's momenta than the five equal ones of Jordan et al.
COEFFICIENTS = (
    (8.29870, -24.43050, 18.09031),
    (3.91522, -2.92113, 0.55922),
    (3.17460, -2.38043, 0.49783),
    (2.18946, -1.56722, 0.40789),
)
UPDATE = 0.2  # root mean square of a matrix's update, in learning rates: about AdamW's (Liu et al. 2025)


class Muon(torch.optim.AdamW):
    """Muon for groups that are marked `orthogonal`; AdamW for all other groups.

    A gradient of a matrix has a few large singular values, and AdamW's update does, too. Muon gives all directions the
    same share: of the momentum U S V^T it takes U V^T. As Liu et al. (2025, arXiv:2502.16982) do, the update is scaled
    to the root mean square of AdamW's, whatever the matrix's shape. The weights of a convolution are one matrix: first
    dimension by all others.

    PyTorch's own Muon computes in bfloat16, which takes a CPU without such instructions seconds a step; this one
    computes in the number format of the weights.
    """

    # A loss scaler then leaves out the whole step after an overflow. AdamW alone would do that in its fused kernel.
    _step_supports_amp_scaling = False

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        vars(self).pop("_step_supports_amp_scaling", None)  # set there for fused kernels

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all weights; the gradients of orthogonal groups are used up."""
        for group in self.param_groups:
            if group.get("orthogonal"):
                weights = [weight for weight in group["params"] if weight.grad is not None]
                self._move(weights, group["lr"], group["weight_decay"])
        super().step(closure)

    def _move(self, weights: list[torch.Tensor], rate: float, decay: float) -> None:
        same: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
        for weight in weights:
            momentum = self._momentum(weight)
            same[momentum.shape].append((weight, momentum))
            weight.grad = None  # AdamW leaves it alone
        for shape, pairs in same.items():
            # equal shapes at once: on a CPU single products of such matrices are too short for several threads
            directions = orthogonal(torch.stack([momentum for _, momentum in pairs]))
            for (weight, _), direction in zip(pairs, directions, strict=True):
                rows = direction if len(weight) == len(direction) else direction.T
                weight.mul_(1 - rate * decay)
                weight.add_(rows.reshape(weight.shape), alpha=-rate * UPDATE * max(shape) ** 0.5)

    def _momentum(self, weight: torch.Tensor) -> torch.Tensor:
        """Add the gradient to a weight's momentum; return it one step ahead (Nesterov), rows <= columns."""
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        if not state:
            # AdamW looks for `step` in every state when one is loaded
            state.update(step=torch.zeros(()), momentum=torch.zeros_like(gradient))
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM).flatten(1)
        return ahead if ahead.shape[0] <= ahead.shape[1] else ahead.T


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Return U V^T of matrices U S V^T (k, m, n), m <= n, with singular values of 0.91 to 1.09 in place of 1.

    By Newton-Schulz steps, which are matrix products alone. Singular values below a 200th of a bound, which is at most
    m^(1/4) times the largest, come out smaller, and so do matrices without an entry above 1e-7; one of zeros stays one.
    """
    # Divided by a power of two, without rounding, the largest entry is 1/2 to 1, so that squares are finite.
    exponent = torch.frexp(matrices.abs().amax((1, 2), keepdim=True).clamp_min(1e-7)).exponent
    matrices = torch.ldexp(matrices, -exponent)
    square = matrices @ matrices.mT
    bound = square.norm(dim=(1, 2), keepdim=True).sqrt().clamp_min(0.5)
    square = square / bound**2
    # A step is x <- p x with p = a + b (x x^T) + c (x x^T)^2. All p commute, so that x x^T becomes p (x x^T) p: the steps
    # are products of m x m matrices, and only their product is multiplied with the m x n matrix.
    product = step = _polynomial(square, *COEFFICIENTS[0])
    for coefficients in COEFFICIENTS[1:]:
        square = step @ square @ step
        step = _polynomial(square, *coefficients)
        product = step @ product
    return product @ (matrices / bound)


def _polynomial(square: torch.Tensor, a: float, b: float, c: float) -> torch.Tensor:
    """Return a + b S + c S^2 of matrices S (k, m, m)."""
    result = torch.baddbmm(square, square, square, beta=b, alpha=c)
    result.diagonal(dim1=1, dim2=2).add_(a)
    return result
