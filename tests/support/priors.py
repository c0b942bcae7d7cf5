"""Small priors with random weights for the tests of the network and of its sampler."""

import torch
from torch import nn

from medunifier.model.text import Text
from medunifier.synthesis.pixelsnail import Prior
from medunifier.synthesis.prior_config import GRIDS, PriorConfig

CODES, TEXT_WIDTH = 20, 12


def make_prior(level: str, *, text: bool = False, attention: bool = True, **sizes) -> Prior:
    """Return a prior in evaluation mode with weights large enough that a wrong connection is noticed."""
    torch.manual_seed(0)
    defaults = {
        "channels": 16,
        "kernel": 3,
        "blocks": 2,
        "residual_blocks": 2,
        "residual_channels": 8,
        "heads": 2,
    }
    prior = Prior(
        PriorConfig(
            level=level,
            codebook_size=CODES,
            text_width=TEXT_WIDTH if text else 0,
            attention=attention,
            top_blocks=1,
            **defaults | sizes,
        )
    ).eval()
    for module in prior.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=0.7 * module.weight[0].numel() ** -0.5)
    return prior


def inputs(level: str, batch: int, *, text: bool = False) -> dict:
    """Return codes, top codes on the bottom level, and with `text` reports of different lengths."""
    generator = torch.Generator().manual_seed(1)

    def codes(number: int) -> torch.Tensor:
        return torch.randint(CODES, (batch, number), generator=generator)

    found = {"codes": codes(GRIDS[level] ** 2)}
    if level == "bottom":
        found["top"] = codes(64)
    if text:
        found["text"] = make_text(batch)
    return found


def make_text(batch: int) -> Text:
    """Return texts of 1, 2 ... 7, 1 ... tokens, padded to 9."""
    states = torch.randn(batch, 9, TEXT_WIDTH, generator=torch.Generator().manual_seed(2))
    return Text(states, torch.arange(9) < (1 + torch.arange(batch) % 7)[:, None])
