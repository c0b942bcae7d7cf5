"""PixelSNAIL: an autoregressive prior over the codes of one level (Chen et al. 2018; paper section 4.2).

Codes are generated row by row, each row from the left. The logits of position i depend on the codes before i
and on the condition: the bottom level on the top codes, both levels (where `text_width` is not 0) on the token
states of a report.

Two parts alternate in every block:
* Gated residual blocks of causal convolutions. A causal convolution has two kernels: one over the rows above,
  one over the positions to the left in the same row. Neither covers the present or the future. The top codes
  and the report's [CLS] state are added before the gates (van den Oord et al. 2016, Eq. 4).
* Pointwise layers, whose input is one position and the output of two attentions: causal attention to all
  positions before, and cross-attention to the report.

The convolutions of position i depend on positions < i alone. So does everything before them. Hence
`medunifier.synthesis.incremental` computes all convolutions of a position at once, and the rows above only once.

Shapes: B batch, H x W code map, N = H * W positions row by row, C channels, K codes, L text tokens.

Names of attributes that hold weights are keys of the saved state_dict: renaming one breaks trained priors.
"""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.text import Text
from medunifier.storage.saved_networks import load_all_weights, read_sizes_as, save_network
from medunifier.synthesis.pixelsnail_blocks import (
    Block,
    CausalConv,
    KeysValues,
    ResidualBlock,
)
from medunifier.synthesis.prior_config import GRIDS, MODEL_TYPE, PriorConfig


class TopReader(nn.Module):
    """Encoder of the top codes into a condition map for the bottom level: residual 3 x 3 convolutions."""

    def __init__(self, c: PriorConfig):
        super().__init__()

        def conv(channels: int, out: int) -> nn.Conv2d:
            return nn.Conv2d(channels, out, 3, padding=1)

        self.embedding = nn.Embedding(c.codebook_size, c.channels)
        self.enter = conv(c.channels, c.channels)
        self.blocks = nn.Sequential(
            *(ResidualBlock(c.channels, c.residual_channels, conv, c.dropout) for _ in range(c.top_blocks))
        )

    def forward(self, top: torch.Tensor) -> torch.Tensor:
        """Encode top codes (B, 64) -> (B, 8, 8, C)."""
        x = self.embedding(top).unflatten(1, (GRIDS["top"], -1)).permute(0, 3, 1, 2)
        return self.blocks(self.enter(x)).permute(0, 2, 3, 1)


class TextReader(nn.Module):
    """Projection of a report's token states to the prior's width, after a learnt token that stands for 'no text'."""

    def __init__(self, c: PriorConfig):
        super().__init__()
        self.norm = nn.LayerNorm(c.text_width)
        self.project = nn.Linear(c.text_width, c.channels)
        self.whole = nn.Linear(c.text_width, c.channels)
        self.nothing = nn.Parameter(torch.zeros(c.channels))

    def forward(self, text: Text | None, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return states (B, 1 + L, C) and mask (B, 1, 1, 1 + L); without a text the learnt token alone."""
        tokens = self.nothing.expand(batch, 1, -1)
        mask = torch.ones(batch, 1, dtype=torch.bool, device=tokens.device)
        if text is not None:
            tokens = torch.cat([tokens, self.project(self.norm(text.states))], 1)
            mask = torch.cat([mask, text.mask.bool()], 1)
        return tokens, mask[:, None, None]

    def summary(self, text: Text) -> torch.Tensor:
        """Return the projected [CLS] state (B, C); zero where the mask is false."""
        return self.whole(self.norm(text.states[:, 0])) * text.mask[:, :1]


class Prior(nn.Module):
    """The distribution of one level's codes. `Prior.from_pretrained("models/priors/full-top")` loads one.

    Raises:
        ValueError: the kernel is even or below 3, or the heads do not divide half the channels.
    """

    def __init__(self, config: PriorConfig):
        super().__init__()
        self.config = c = config
        if c.kernel % 2 == 0 or c.kernel < 3:
            raise ValueError(f"kernel ({c.kernel}) must be odd and at least 3")
        if c.channels // 2 % c.heads:
            raise ValueError(f"half the channels ({c.channels}) must be a multiple of the heads ({c.heads})")
        self.grid = GRIDS[c.level]
        self.embedding = nn.Embedding(c.codebook_size, c.channels)
        self.enter = CausalConv(c.channels, c.channels, c.kernel)
        self.positions = nn.Parameter(torch.zeros(self.grid**2, c.channels))
        self.top_reader = TopReader(c) if c.level == "bottom" else None
        self.text_reader = TextReader(c) if c.text_width else None
        self.blocks = cast(Sequence[Block], nn.ModuleList(Block(c) for _ in range(c.blocks)))
        self.leave = nn.Linear(c.channels, c.codebook_size)
        self.apply(self._init_weights)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Prior":
        """Load a trained prior, in evaluation mode.

        Raises:
            OSError: the file of weights is missing, or its weights are not those of this network.
            InputError: config.json is missing, broken or no prior's, or a weight is not finite.
            safetensors.SafetensorError: the file of weights is broken.
        """
        with torch.random.fork_rng(devices=[]):  # the initial weights are random, and replaced at once
            prior = cls(read_sizes_as(PriorConfig, folder, MODEL_TYPE))
        load_all_weights(prior, folder)
        return prior.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors to a folder."""
        save_network(self, self.config, folder, MODEL_TYPE)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.positions.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.positions.dtype

    def _init_weights(self, module: nn.Module) -> None:
        # convolutions and matrices keep torch's initialisation
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)
        elif isinstance(module, TextReader):
            nn.init.normal_(module.nothing, std=1.0)
        elif isinstance(module, Prior):
            nn.init.normal_(module.positions, std=0.1)

    def background(self) -> torch.Tensor:
        """Return row and column of each position, scaled to [-1/2, 1/2): (N, 2)."""
        line = torch.arange(self.grid, device=self.device, dtype=self.dtype) / self.grid - 0.5
        return torch.cartesian_prod(line, line)

    def condition(self, top: torch.Tensor | None, text: Text | None) -> torch.Tensor | None:
        """Encode what is constant over positions (with top codes: over each 2 x 2 of the bottom level).

        Args:
            top: top codes (B, 64), for the bottom level.
            text: the reports.

        Returns:
            (B, 8, 8, C) with top codes, (B, 1, 1, C) with a report alone, None with neither.

        Raises:
            ValueError: if top codes are given on the top level or missing on the bottom level.
        """
        if (top is None) != (self.top_reader is None):
            raise ValueError(
                f"the {self.config.level} level takes {'the' if top is None else 'no'} top codes"
            )
        parts = [] if self.top_reader is None else [self.top_reader(top)]
        if text is not None and self.text_reader is not None:
            parts.append(self.text_reader.summary(text)[:, None, None])
        return reduce(torch.add, parts) if parts else None

    def encode_text(
        self, text: Text | None, batch: int
    ) -> tuple[list[KeysValues | None], torch.Tensor | None]:
        """Return the text as each block's keys and values, and their mask.

        Raises:
            ValueError: if there is a text and the prior takes none.
        """
        if self.text_reader is None:
            if text is not None:
                raise ValueError("this prior was trained without text (prior.condition: none)")
            return [None] * len(self.blocks), None
        tokens, mask = self.text_reader(text, batch)
        attentions = [block.text_attention for block in self.blocks]
        return [None if a is None else a.keys_values(tokens) for a in attentions], mask

    def forward(
        self, codes: torch.Tensor, top: torch.Tensor | None = None, text: Text | None = None
    ) -> torch.Tensor:
        """Return the logits of every position given the true codes before it.

        Args:
            codes: (B, N), row by row: the whole map, or its first rows.
            top: top codes (B, 64), for the bottom level.
            text: the reports. A row whose mask is all false equals no text.

        Returns:
            Logits (B, N, K).

        Raises:
            ValueError: if `top` or `text` does not fit the prior.
        """
        condition = self.condition(top, text)
        if top is not None and condition is not None:
            condition = condition.repeat_interleave(2, 1).repeat_interleave(2, 2)  # (B, 16, 16, C)
            condition = condition[:, : codes.shape[1] // self.grid]
        texts, mask = self.encode_text(text, len(codes))
        background, positions = self.background()[: codes.shape[1]], self.positions[: codes.shape[1]]
        x = self.embedding(codes)  # (B, N, C)
        last = F.pad(x[:, :-1], (0, 0, 1, 0))
        x = self.enter(x.transpose(1, 2).unflatten(2, (-1, self.grid)))
        x = x + positions.T.unflatten(1, (-1, self.grid))
        for block, keys_values in zip(self.blocks, texts, strict=True):
            x = block(x, last, background, condition, keys_values, mask)
        return self.leave(F.elu(x.flatten(2).transpose(1, 2)))
