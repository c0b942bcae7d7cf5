"""Vector quantisation with a learnt codebook (van den Oord et al. 2017; paper Eq. 19, 21, 23)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.distributed import all_sum, fetch_rows, world_size
from medunifier.model.precision import full_precision


class Quantized(NamedTuple):
    """Quantised latents, of z_e (B, C, h, w)."""

    latents: torch.Tensor  # z_q (B, C, h, w); its gradient passes straight through to z_e
    codes: torch.Tensor  # (B, h, w) long
    codebook_loss: torch.Tensor  # mean of (sg[z_e] - e)^2: moves the codes
    commitment_loss: torch.Tensor  # mean of (z_e - sg[e])^2: moves the latents, weighted by beta


class Quantizer(nn.Module):
    """Nearest-code lookup.

    With `start: data` the codebook starts on latents of the first training batch: a start near zero makes the first
    loss outweigh all others. A code that no latent has chosen for long is moved onto a latent of the current batch,
    and counted in `revived`.

    Codes are moved, and the usage average forgets, once in an optimizer step, not once in a micro-batch: the training
    loop calls `end_step` (by `MedUnifierModel.constrain`).

    Args:
        size: number of codes.
        width: dimension of a code, C.
        start: `data`; or `uniform`, within +-1/size, and no code is ever moved (the authors' code).
        decay: decay of the usage average per optimizer step.
        revive_below: a code whose average share of use falls below this fraction of 1 / size is moved.
    """

    usage: torch.Tensor  # (size,) average share of the latents
    started: torch.Tensor  # bool: whether the codebook has its first values
    revived: torch.Tensor  # codes moved since the start

    def __init__(
        self, size: int, width: int, *, start: str = "data", decay: float = 0.9, revive_below: float = 0.05
    ):
        super().__init__()
        on_data = {"data": True, "uniform": False}[start]
        self.decay = decay
        self.revive_below = revive_below if on_data else 0.0
        codes = (
            torch.randn(size, width) * width**-0.5 if on_data else (torch.rand(size, width) * 2 - 1) / size
        )
        self.codebook = nn.Parameter(codes)  # (size, C)
        self.register_buffer("usage", torch.full((size,), 1.0 / size))
        self.register_buffer("started", torch.tensor(not on_data))
        self.register_buffer("revived", torch.tensor(0))
        # Of the optimizer step under way: usage before it, and latents by code so far, (size,) each. None before its
        # first micro-batch. No checkpoint falls inside a step.
        self._step: tuple[torch.Tensor, torch.Tensor] | None = None

    def end_step(self) -> None:
        """Note that an optimizer step is over: the next batch begins another."""
        self._step = None

    def forward(self, z: torch.Tensor) -> Quantized:
        """Quantise latents z_e (B, C, h, w); in training also start, move and count codes."""
        flat = z.permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, C)
        if self.training and self._step is None:
            self._place_codes(flat.detach())
        codes = self.nearest(flat)
        if self.training:
            self._count(codes)
        chosen = self.lookup(codes.view(z.shape[0], *z.shape[2:]))
        return Quantized(
            latents=z + (chosen - z).detach(),
            codes=codes.view(z.shape[0], *z.shape[2:]),
            codebook_loss=F.mse_loss(chosen, z.detach()),
            commitment_loss=F.mse_loss(z, chosen.detach()),
        )

    def nearest(self, flat: torch.Tensor) -> torch.Tensor:
        """Return the index (N,) of the code closest to each row of flat (N, C)."""
        with torch.no_grad(), full_precision(flat):
            e = self.codebook.float()
            # |z - e|^2 without |z|^2, which is the same for all codes
            return torch.addmm(e.square().sum(1), flat.float(), e.T, alpha=-2).argmin(1)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the vectors (B, C, h, w) of codes (B, h, w)."""
        return F.embedding(codes, self.codebook).permute(0, 3, 1, 2)

    def perplexity(self) -> torch.Tensor:
        """Return exp of the entropy of the average use: `size` when all codes are used alike, 1 when only one is."""
        share = self.usage / self.usage.sum()
        return torch.exp(-(share * share.clamp_min(1e-12).log()).sum())

    @torch.no_grad()
    def _place_codes(self, flat: torch.Tensor) -> None:
        """Move all codes onto latents (N, C) in the first batch, dead codes later.

        Of the other processes' latents only those are fetched that a code is moved to.
        """
        dead = self.usage < self.revive_below / len(self.usage)
        if self.started and not dead.any():
            return
        where = torch.arange(len(dead), device=dead.device) if not self.started else dead.nonzero()[:, 0]
        # The same on all processes: the generator's state and the latents of the global batch are.
        latents = len(flat) * world_size()
        picks = torch.randint(latents, (len(where),), generator=self._generator(), device="cpu")
        self.codebook[where] = fetch_rows(flat, picks.to(flat.device)).to(self.codebook.dtype)
        self.usage[where] = 1.0 / len(self.usage)
        if self.started:
            self.revived += len(where)
        self.started.fill_(True)

    def _generator(self) -> torch.Generator:
        # The same on every process and after a resume: it depends on saved state alone.
        return torch.Generator().manual_seed(int(self.revived) + 1)

    @torch.no_grad()
    def _count(self, codes: torch.Tensor) -> None:
        counts = all_sum(torch.bincount(codes, minlength=len(self.usage)).float())
        before = self.usage.clone()
        if self._step is not None:  # a later micro-batch: all of the step so far, from where the step began
            before, earlier = self._step
            counts = earlier + counts
        self._step = before, counts
        self.usage.copy_(before.lerp((counts / counts.sum()).to(before.dtype), 1 - self.decay))
