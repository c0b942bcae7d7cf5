"""PixelSNAIL: an autoregressive prior over the codes of one level (Chen et al. 2018; paper section 4.2).

Codes are drawn row by row, each row from the left. The logits of position i know the codes before i, and
whatever the prior is conditioned on: the bottom level on the top codes, both levels (where `text_width` is
not 0) on the tokens of a report.

Two parts alternate in every block:
* gated residual blocks of causal convolutions. A causal convolution is two kernels: one over the rows above,
  one over the places to the left in the same row. Neither has a weight for the present or the future. The top
  codes, and the report as a whole ([CLS]), are added before the gates (van den Oord et al. 2016, Eq. 4).
* pointwise layers, which see one position and what attention brings there: from all positions before
  (causal attention) and from the report (cross-attention).

The convolutions of position i look at positions < i alone. So does everything before them, hence
`medunifier.synthesis.sampler` can compute all of a position's convolutions at once, and the rows above only once.

Shapes: B batch, H x W grid, N = H * W positions row by row, C channels, K codes, L text tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from medunifier.model.text import Text

GRIDS = {"top": 8, "bottom": 16}  # height = width of the levels' maps
COORDINATES = 2  # channels of `background`


class KeysValues(NamedTuple):
    """What attention looks at."""

    keys: torch.Tensor  # (B, heads, N, D)
    values: torch.Tensor  # (B, heads, N, D)


@strict
class PriorConfig(PreTrainedConfig):
    """Sizes of a prior; the defaults are those of the authors' release, top level.

    Args:
        level: top | bottom. codebook_size: K.
        channels: C. kernel: width of the causal convolutions, odd; they see kernel - 1 rows above.
        blocks: PixelSNAIL blocks. residual_blocks: gated residual blocks in each.
        residual_channels: channels between the two convolutions of a residual block.
        attention: whether blocks attend to all positions before. heads: of every attention.
        top_blocks: residual blocks that read the top codes (level bottom).
        text_width: width of the report's tokens; 0: the prior takes no text.
        dropout: probability, inside residual and gated blocks.
    """

    model_type = "medunifier_prior"

    level: str = "top"
    codebook_size: int = 512
    channels: int = 256
    kernel: int = 5
    blocks: int = 4
    residual_blocks: int = 4
    residual_channels: int = 256
    attention: bool = True
    heads: int = 8
    top_blocks: int = 3
    text_width: int = 0
    dropout: float = 0.1


class CausalConv(nn.Module):
    """Convolution over what comes before: (B, C, H, W) -> (B, out, H, W).

    `above` covers the kernel - 1 rows above, kernel columns wide; `left` the kernel // 2 places to the left.
    """

    def __init__(self, channels: int, out: int, kernel: int):
        super().__init__()
        self.reach = kernel // 2  # columns to either side
        self.above = nn.Conv2d(channels, out, (kernel - 1, kernel))
        self.left = nn.Conv2d(channels, out, (1, self.reach), bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, n = self.above.kernel_size[0], self.reach
        above = self.above(F.pad(x, (n, n, rows, 0))[:, :, :-1])
        return above + self.left(F.pad(x, (n, 0, 0, 0))[:, :, :, :-1])


class ResidualBlock(nn.Module):
    """Gated residual block of two convolutions: x + GLU(conv(elu(conv(elu(x)))) + condition).

    Args:
        conv: (channels, out) -> a convolution that keeps height and width.
        condition: channels of the condition map, 0 for none.
    """

    def __init__(self, channels: int, inner: int, conv: Callable, dropout: float, condition: int = 0):
        super().__init__()
        self.dropout = dropout
        self.enter = conv(channels, inner)
        self.leave = conv(inner, 2 * channels)
        self.condition = nn.Linear(condition, 2 * channels, bias=False) if condition else None

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """X (B, C, H, W), condition (B, H, W, condition channels), or (B, 1, 1, ...) -> (B, C, H, W)."""
        y = F.dropout(F.elu(self.enter(F.elu(x))), self.dropout, self.training)
        y = self.leave(y)
        if condition is not None:
            y = y + self.condition(condition).permute(0, 3, 1, 2)
        return x + F.glu(y, 1)


class GatedLayer(nn.Module):
    """The same for a single position: x + GLU(W elu(V elu(x) + U elu(beside))), on the last dimension."""

    def __init__(self, width: int, inner: int, dropout: float, beside: int = 0):
        super().__init__()
        self.dropout = dropout
        self.enter = nn.Linear(width, inner)
        self.beside = nn.Linear(beside, inner, bias=False) if beside else None
        self.leave = nn.Linear(inner, 2 * width)

    def forward(self, x: torch.Tensor, beside: torch.Tensor | None = None) -> torch.Tensor:
        y = self.enter(F.elu(x))
        if self.beside is not None:
            y = y + self.beside(F.elu(beside))
        return x + F.glu(self.leave(F.dropout(F.elu(y), self.dropout, self.training)), -1)


class Attention(nn.Module):
    """Multi-head attention without an output matrix: what it brings is mixed in by a `GatedLayer`."""

    def __init__(self, query: int, source: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(query, width)
        self.key = nn.Linear(source, width)
        self.value = nn.Linear(source, width)

    def read(self, source: torch.Tensor) -> KeysValues:
        """Keys and values of source (B, N, source width)."""
        return KeysValues(self._split(self.key(source)), self._split(self.value(source)))

    def forward(
        self, x: torch.Tensor, seen: KeysValues, mask: torch.Tensor | None = None, causal: bool = False
    ) -> torch.Tensor:
        """X (B, M, query width) looks at `seen` where mask is true; causal: row i at entries <= i."""
        y = F.scaled_dot_product_attention(self._split(self.query(x)), *seen, mask, is_causal=causal)
        return y.transpose(1, 2).flatten(2)  # (B, M, width)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, width) -> (B, heads, N, D)


class Block(nn.Module):
    """Residual blocks, then attention to the positions before and to the report."""

    def __init__(self, c: PriorConfig):
        super().__init__()
        C, width, text = c.channels, c.channels // 2, c.text_width > 0
        condition = C if c.level == "bottom" or text else 0

        def conv(channels: int, out: int) -> CausalConv:
            return CausalConv(channels, out, c.kernel)

        self.residual = nn.ModuleList(
            ResidualBlock(C, c.residual_channels, conv, c.dropout, condition)
            for _ in range(c.residual_blocks)
        )
        self.attention = self.text_attention = None
        if c.attention or text:
            self.asks = GatedLayer(C + COORDINATES, C, c.dropout)
        if c.attention:
            self.tells = GatedLayer(3 * C + COORDINATES, C, c.dropout)
            self.attention = Attention(C + COORDINATES, 3 * C + COORDINATES, width, c.heads)
        if text:
            self.text_attention = Attention(C + COORDINATES, C, width, c.heads)
        self.mix = GatedLayer(C, C, c.dropout, beside=COORDINATES + width * (c.attention + text))

    def forward(
        self,
        x: torch.Tensor,
        last: torch.Tensor,
        background: torch.Tensor,
        condition: torch.Tensor | None,
        text: KeysValues | None,
        text_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """X (B, C, H, W), last (B, N, C), background (N, 2), condition as `ResidualBlock` -> (B, C, H, W)."""
        grid, before = x.shape[2:], x
        for residual in self.residual:
            x = residual(x, condition)
        x, before = (y.flatten(2).transpose(1, 2) for y in (x, before))  # (B, N, C)
        background = background.expand(len(x), -1, -1)
        seen = self.remember(before, x, last, background) if self.attention is not None else None
        x = self.look(x, background, seen, text, text_mask, causal=True)
        return x.transpose(1, 2).unflatten(2, grid)

    def remember(
        self, before: torch.Tensor, x: torch.Tensor, last: torch.Tensor, background: torch.Tensor
    ) -> KeysValues:
        """What this and later positions can attend to, (B, N, C) each: the block's input, its residual output,
        and the code of the position before (at the start of a row no convolution sees that one).
        """
        return self.attention.read(self.tells(torch.cat([before, x, last, background], -1)))

    def look(
        self,
        x: torch.Tensor,
        background: torch.Tensor,
        seen: KeysValues | None,
        text: KeysValues | None,
        text_mask: torch.Tensor | None,
        causal: bool = False,
    ) -> torch.Tensor:
        """Pointwise end of the block, x (B, M, C) -> (B, M, C).

        Position i may attend to its own entry in `seen`: like all it is made of, that knows codes before i.
        """
        brought = [background]
        if self.attention is not None or self.text_attention is not None:
            asking = self.asks(torch.cat([x, background], -1))
        if self.attention is not None:
            brought.append(self.attention(asking, seen, causal=causal))
        if self.text_attention is not None:
            brought.append(self.text_attention(asking, text, text_mask))
        return self.mix(x, torch.cat(brought, -1))


class TopReader(nn.Module):
    """The top codes as a condition map for the bottom level: embedding, residual 3 x 3 convolutions."""

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
        """Codes (B, 64) -> (B, 8, 8, C)."""
        x = self.embedding(top).unflatten(1, (GRIDS["top"], -1)).permute(0, 3, 1, 2)
        return self.blocks(self.enter(x)).permute(0, 2, 3, 1)


class TextReader(nn.Module):
    """A report's tokens at the prior's width, behind a learnt token that stands for 'no text', and its [CLS] alone."""

    def __init__(self, c: PriorConfig):
        super().__init__()
        self.norm = nn.LayerNorm(c.text_width)
        self.project = nn.Linear(c.text_width, c.channels)
        self.whole = nn.Linear(c.text_width, c.channels)
        self.nothing = nn.Parameter(torch.zeros(c.channels))

    def forward(self, text: Text | None, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, 1 + L, C) and mask (B, 1, 1, 1 + L); without a text the learnt token alone."""
        tokens = self.nothing.expand(batch, 1, -1)
        mask = torch.ones(batch, 1, dtype=torch.bool, device=tokens.device)
        if text is not None:
            tokens = torch.cat([tokens, self.project(self.norm(text.states))], 1)
            mask = torch.cat([mask, text.mask.bool()], 1)
        return tokens, mask[:, None, None]

    def summary(self, text: Text) -> torch.Tensor:
        """The report as a whole (B, C), of the token [CLS]; zero where the mask is false."""
        return self.whole(self.norm(text.states[:, 0])) * text.mask[:, :1]


class Prior(PreTrainedModel):
    """The distribution of one level's codes. `Prior.from_pretrained("models/priors/full-top")`."""

    config_class = PriorConfig
    main_input_name = "codes"
    _supports_sdpa = True

    def __init__(self, config: PriorConfig):
        super().__init__(config)
        c = config
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
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.blocks))
        self.leave = nn.Linear(c.channels, c.codebook_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # torch's own start, except that every block starts near the identity
        if isinstance(module, (ResidualBlock, GatedLayer)):
            leave = module.leave
            for part in (leave.above, leave.left) if isinstance(leave, CausalConv) else (leave,):
                fan_in = part.weight[0].numel()
                init.normal_(part.weight, std=0.1 * fan_in**-0.5)
                if part.bias is not None:
                    init.zeros_(part.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=1.0)
        elif isinstance(module, TextReader):
            init.normal_(module.nothing, std=1.0)
        elif isinstance(module, Prior):
            init.normal_(module.positions, std=0.1)

    def background(self) -> torch.Tensor:
        """Row and column of each position between -1/2 and 1/2: (N, 2)."""
        line = torch.arange(self.grid, device=self.device, dtype=self.dtype) / self.grid - 0.5
        return torch.cartesian_prod(line, line)

    def condition(self, top: torch.Tensor | None, text: Text | None) -> torch.Tensor | None:
        """What is the same for all positions of a map, or of a quarter of one: top codes (B, 64) and reports ->
        (B, 8, 8, C), or (B, 1, 1, C) on the top level; None where there is neither. Raises ValueError for too much
        or too little.
        """
        if (top is None) != (self.top_reader is None):
            raise ValueError(
                f"the {self.config.level} level takes {'the' if top is None else 'no'} top codes"
            )
        parts = [] if top is None else [self.top_reader(top)]
        if text is not None and self.text_reader is not None:
            parts.append(self.text_reader.summary(text)[:, None, None])
        return sum(parts) if parts else None

    def read_text(self, text: Text | None, batch: int) -> tuple[list[KeysValues | None], torch.Tensor | None]:
        """The text as each block's keys and values, and their mask. Raises ValueError if the prior takes none."""
        if self.text_reader is None:
            if text is not None:
                raise ValueError("this prior was trained without text (prior.condition: none)")
            return [None] * len(self.blocks), None
        tokens, mask = self.text_reader(text, batch)
        return [block.text_attention.read(tokens) for block in self.blocks], mask

    def forward(
        self, codes: torch.Tensor, top: torch.Tensor | None = None, text: Text | None = None
    ) -> torch.Tensor:
        """Logits of every position given the true codes before it.

        Args:
            codes: (B, N), row by row: the whole map, or its first rows. top: the top codes (B, 64), for the bottom
                level.
            text: the reports; where the mask is all false, as without a text.
        Returns: (B, N, K).
        """
        condition = self.condition(top, text)
        if top is not None:
            condition = condition.repeat_interleave(2, 1).repeat_interleave(2, 2)  # (B, 16, 16, C)
            condition = condition[:, : codes.shape[1] // self.grid]
        texts, mask = self.read_text(text, len(codes))
        background, positions = self.background()[: codes.shape[1]], self.positions[: codes.shape[1]]
        x = self.embedding(codes)  # (B, N, C)
        last = F.pad(x[:, :-1], (0, 0, 1, 0))
        x = self.enter(x.transpose(1, 2).unflatten(2, (-1, self.grid)))
        x = x + positions.T.unflatten(1, (-1, self.grid))
        for block, seen in zip(self.blocks, texts, strict=True):
            x = block(x, last, background, condition, seen, mask)
        return self.leave(F.elu(x.flatten(2).transpose(1, 2)))


AutoConfig.register("medunifier_prior", PriorConfig)
AutoModel.register(PriorConfig, Prior)
