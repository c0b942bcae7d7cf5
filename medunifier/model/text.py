"""Encoded reports, and the head that predicts their next token."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.precision import for_products


class Text(NamedTuple):
    """A batch of encoded reports, as a prior of image codes is conditioned on (`MedUnifierNetwork.read_text`)."""

    states: torch.Tensor  # (B, L, W)
    mask: torch.Tensor  # (B, L), true at tokens, false at padding


class TextHead(nn.Module):
    """BERT's prediction head; the output matrix is the word embedding (H_itg, paper Eq. 16).

    Args:
        width: W. vocab_size: V.
    """

    def __init__(self, width: int, vocab_size: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Return logits (..., V) of hidden states x (..., W), by word embeddings (V, W)."""
        x, bias = for_products(self.norm(F.gelu(self.dense(x)))), self.bias
        missing = -len(words) % 8
        if x.dtype.itemsize > 2 or not missing:
            return F.linear(x, words, bias)
        # Tensor cores take rows of whole 16 bytes: BERT's vocabulary with [DEC] took 3 times as long on an H100.
        return F.linear(x, F.pad(words, (0, 0, 0, missing)), F.pad(bias, (0, missing)))[..., : len(words)]
