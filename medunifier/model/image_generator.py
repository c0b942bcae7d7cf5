"""Text-grounded image generation: latent adapters, two-level quantiser, decoder (paper section 3.4, appendix 1-2).

Shapes: B batch, C code width, C' width of the bottom's latents. The top level is an 8 x 8 map of the 32 query outputs.
The bottom level is a 16 x 16 map of the patch tokens (256 of ViT-g), each joined with the report's [CLS].
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.image_decoders import image_decoder, top_decoder
from medunifier.model.image_layers import (
    Enlarge,
    ResidualBlock,
    ResidualLayer,
    resize,
    sinusoidal_positions,
    unit_length,
)
from medunifier.model.quantizer import Quantized, Quantizer

TOP_GRID = 8
BOTTOM_GRID = 16


class Generated(NamedTuple):
    """Reconstructions and the quantised latents that they are decoded from."""

    images: torch.Tensor  # (B, image channels, 224, 224), unclamped
    top: Quantized  # (B, C, 8, 8)
    bottom: Quantized  # (B, C', 16, 16)


class LatentAdapter(nn.Module):
    """Map tokens to latents: non-linear map, spatial position, residual blocks (appendix Fig. 1).

    Args:
        source: token width. width: C. tokens: (rows, columns) in which the tokens are laid out.
        grid: height and width of the map; the tokens' map is resized to it.
        ending: `unit_length` at each place bounds the quantiser's terms by 4 / C, so that they cannot outweigh the
            squared error of the images, a few hundredths at the start; `rectified`: a ReLU (the authors' code).
        blocks: number of residual blocks, each with weights of its own.
        residual: `plain` (`ResidualBlock`) or `batch_norm` (`ResidualLayer`: the paper's and the authors').
        position: `learnt`, one vector for each place of the map; `sinusoidal`, fixed, added to the tokens' own map
            before it is resized (the paper's and the authors').

    Raises:
        ValueError: `sinusoidal` with a width that is no multiple of 4.
    """

    def __init__(
        self,
        source: int,
        width: int,
        tokens: tuple[int, int],
        grid: int,
        ending: str,
        blocks: int,
        residual: str = "plain",
        position: str = "learnt",
    ):
        super().__init__()
        if position == "sinusoidal" and width % 4:
            raise ValueError(f"model.code_width ({width}) must be a multiple of 4 for sinusoidal positions")
        self.tokens, self.grid = tokens, grid
        endings: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "unit_length": unit_length,
            "rectified": F.relu,
        }
        self.ending = endings[ending]
        self.map = nn.Sequential(nn.Linear(source, width), nn.GELU(), nn.Linear(width, width))
        learnt = {"learnt": True, "sinusoidal": False}[position]
        self.position = nn.Parameter(torch.zeros(1, width, grid, grid)) if learnt else None
        layer = {"plain": ResidualBlock, "batch_norm": ResidualLayer}[residual]
        self.residual = nn.Sequential(*(layer(width) for _ in range(blocks)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, rows * columns, source) to latents z_e (B, C, grid, grid)."""
        x = self.map(tokens).transpose(1, 2).unflatten(2, self.tokens)  # (B, C, rows, columns)
        if self.position is None:
            x = resize(x + sinusoidal_positions(*x.shape[1:], x), self.grid, self.grid)
        else:
            x = resize(x, self.grid, self.grid) + self.position
        return self.ending(self.residual(x))


class ImageGenerator(nn.Module):
    """Text-grounded image generation, TIG (Eq. 18-22).

    Args:
        query_width: width of the query outputs and of the text [CLS], W.
        vision_width: width of the image features. grid: rows and columns of the patch tokens; their map is resized to
            16 x 16.
        queries: number of query tokens, laid out in 4 rows.
        code_width, codebook_size: C and codes, at each level. codebook_start: see `Quantizer`.
        adapter, adapter_blocks, adapter_residual, adapter_position: see `LatentAdapter`.
        bottom_latents: how the bottom's latents take in the doubled top's: `joined` by a 1 x 1 convolution into C
            channels; `concatenated` to 2 C, which is then the width of the bottom's codes (the authors' code).
        decoder_kind: `tapered`, `deconvolutional` (paper) or `residual` (the authors' code), see `image_decoder` and
            `top_decoder`. decoder_channels, image_channels, norm, decoder_shortcut: see the decoders.

    Raises:
        ValueError: `queries` is no multiple of 4.
    """

    def __init__(
        self,
        *,
        query_width: int,
        vision_width: int,
        grid: tuple[int, int],
        queries: int,
        code_width: int,
        codebook_size: int,
        decoder_channels: tuple[int, ...],
        image_channels: int,
        decoder_kind: str = "tapered",
        norm: str = "group",
        decoder_shortcut: bool = True,
        adapter: str = "unit_length",
        adapter_blocks: int = 1,
        adapter_residual: str = "plain",
        adapter_position: str = "learnt",
        bottom_latents: str = "joined",
        codebook_start: str = "data",
    ):
        super().__init__()
        if queries % 4:
            raise ValueError(
                f"model.queries ({queries}) must be a multiple of 4: they are laid out in 4 rows"
            )
        normed, joined = adapter == "unit_length", {"joined": True, "concatenated": False}[bottom_latents]
        bottom_width = code_width if joined else 2 * code_width
        # Factors from unit length to unit variance, for the decoders.
        self.top_gain, self.bottom_gain = (code_width**0.5, bottom_width**0.5) if normed else (1.0, 1.0)
        choices = (adapter, adapter_blocks, adapter_residual, adapter_position)
        self.top_adapter = LatentAdapter(query_width, code_width, (4, queries // 4), TOP_GRID, *choices)
        self.bottom_adapter = LatentAdapter(
            vision_width + query_width, code_width, grid, BOTTOM_GRID, *choices
        )
        self.top_quantizer = Quantizer(codebook_size, code_width, start=codebook_start)
        self.top_decoder = top_decoder(decoder_kind, code_width, norm)  # 8 -> 16
        # The authors' code doubles the top a second time for the decoder, by weights of its own.
        self.second_doubling = Enlarge(code_width, code_width, 2) if decoder_kind == "residual" else None
        self.join = nn.Conv2d(2 * code_width, code_width, 1) if joined else nn.Identity()
        self.normalise = unit_length if normed else nn.Identity()
        self.bottom_quantizer = Quantizer(codebook_size, bottom_width, start=codebook_start)
        self.decoder = image_decoder(
            decoder_kind, code_width + bottom_width, decoder_channels, image_channels, norm, decoder_shortcut
        )

    def forward(self, queries: torch.Tensor, patches: torch.Tensor, text: torch.Tensor) -> Generated:
        """Reconstruct images from query outputs (B, Q, W), patch tokens (B, patches, vision width), [CLS] (B, W)."""
        top, bottom, up = self.quantize(queries, patches, text)
        return Generated(self.decoder(up, bottom.latents * self.bottom_gain), top, bottom)

    def quantize(
        self, queries: torch.Tensor, patches: torch.Tensor, text: torch.Tensor
    ) -> tuple[Quantized, Quantized, torch.Tensor]:
        """Quantise both levels; the bottom's latents take in the doubled top's before lookup (Eq. 21).

        Returns:
            Top, bottom, and the doubled top latents for the decoder (B, C, 16, 16).
        """
        top = self.top_quantizer(self.top_adapter(queries))
        up = self.top_decoder(top.latents * self.top_gain)
        text = text[:, None].expand(-1, patches.shape[1], -1).to(patches.dtype)
        local = self.bottom_adapter(torch.cat([patches, text], 2))
        bottom = self.bottom_quantizer(self.normalise(self.join(torch.cat([up, local], 1))))
        return top, bottom, up if self.second_doubling is None else self.second_doubling(top.latents)

    def decode(self, top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
        """Decode codes (B, 8, 8) and (B, 16, 16) to images (B, image channels, 224, 224) in [0, 1]."""
        doubling = self.top_decoder if self.second_doubling is None else self.second_doubling
        up = doubling(self.top_quantizer.lookup(top) * self.top_gain)
        return self.decoder(up, self.bottom_quantizer.lookup(bottom) * self.bottom_gain).clamp(0, 1)
