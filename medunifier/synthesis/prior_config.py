"""Sizes of a PixelSNAIL prior, in transformers' configuration format, and the folder of a trained one."""

from pathlib import Path

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

GRIDS = {"top": 8, "bottom": 16}  # height = width of each level's code map
LEVELS = tuple(GRIDS)


@strict
class PriorConfig(PreTrainedConfig):
    """Sizes of a prior. The defaults are those of the authors' code, top level.

    Args:
        level: top | bottom.
        codebook_size: K, number of codes.
        channels: C, channels of the residual stream.
        kernel: width of the causal convolutions, odd. Each covers kernel - 1 rows above.
        blocks: number of PixelSNAIL blocks.
        residual_blocks: gated residual blocks in each PixelSNAIL block.
        residual_channels: channels between the two convolutions of a residual block.
        attention: whether blocks attend to all positions before.
        heads: heads of every attention.
        top_blocks: residual blocks that encode the top codes (level bottom).
        text_width: width of the report's token states; 0: the prior takes no text.
        dropout: dropout probability inside residual and gated blocks.
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


def prior_folder(variant: str, level: str) -> Path:
    """Return the folder of a trained prior."""
    return Path("models/priors") / f"{variant}-{level}"
