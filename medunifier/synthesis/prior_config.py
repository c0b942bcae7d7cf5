"""Sizes of a PixelSNAIL prior, and the folder of a trained one."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.dataclasses import strict

MODEL_TYPE = "medunifier_prior"  # `model_type` in config.json
# A larger network is a damaged config.json, and building it would fill the memory.
LARGEST = 65_536  # of any size
LONGEST = 1000  # of any number of blocks
GRIDS = {"top": 8, "bottom": 16}  # height = width of each level's code map
LEVELS = tuple(GRIDS)


@strict  # refuses values of other types, as a damaged config.json has them
@dataclass(kw_only=True)
class PriorConfig:
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

    def validate_sizes(self) -> None:
        """Refuse sizes of no network; `strict` calls this."""
        for name, value in vars(self).items():
            largest = LONGEST if name.endswith("blocks") else LARGEST
            if isinstance(value, int) and not 0 <= value <= largest:
                raise ValueError(f"{name} is {value}; expected 0 to {largest}")


def prior_folder(variant: str, level: str) -> Path:
    """Return the folder of a trained prior."""
    return Path("models/priors") / f"{variant}-{level}"
