"""Image classification on a pre-trained Q-Former: uni-modal masking, a linear head (paper section 4.2, Table 1)."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.network import MedUnifierNetwork

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)  # inverse L2 penalties among which the probe chooses


class QueryEncoder(nn.Module):
    """The part of MedUnifier that sees images: the norm after the ViT, the queries, their blocks.

    The queries attend to themselves and to the image, never to text (uni-modal mask of Fig. 2).
    """

    def __init__(self, model: MedUnifierNetwork):
        super().__init__()
        self.vision_norm, self.qformer = model.vision_norm, model.qformer
        self.width = model.config.width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """ViT tokens (B, T, vision width) -> the mean of the queries' outputs (B, W)."""
        queries, _ = self.qformer.encode_queries(self.qformer.read_image(self.vision_norm(features)))
        return queries.mean(1)


class Classifier(nn.Module):
    """An image encoder, which maps a batch to vectors (B, `width`), and a linear head on top of it.

    One output for a binary task (logit of the positive class), one for each class otherwise.
    """

    def __init__(self, encoder: nn.Module, outputs: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What the encoder reads, (B, ...) -> logits (B, outputs)."""
        return self.head(self.encoder(images))

    def parameter_groups(self, rate: float, head_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """AdamW groups for `training.train` with `head_rate` as the recipe's learning rate.

        Pre-trained weights learn at `rate`, the head at `head_rate`; vectors do not decay.
        """
        groups = []
        for part, scale in ((self.encoder, rate / head_rate), (self.head, 1.0)):
            for matrices, decay in ((True, weight_decay), (False, 0.0)):
                chosen = [p for p in part.parameters() if p.requires_grad and (p.ndim >= 2) == matrices]
                if chosen:
                    groups.append({"params": chosen, "weight_decay": decay, "rate_scale": scale})
        return groups


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean loss of logits (B, 1) against 0 and 1, or (B, C) against class numbers; target int64 (B,)."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], target.to(logits.dtype))
    return F.cross_entropy(logits, target)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Logits (B, outputs) -> probabilities (B, C) of all classes; (not positive, positive) of a binary task."""
    if logits.shape[1] == 1:
        return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], 1)
    return logits.softmax(1)


def fit_probe(
    train: np.ndarray,
    train_target: np.ndarray,
    validate: np.ndarray,
    validate_target: np.ndarray,
    outputs: int,
) -> nn.Linear:
    """A linear probe: logistic regression on frozen vectors, its L2 penalty chosen on validation.

    Vectors are standardised by the training part's mean and deviation; the returned layer takes plain vectors.

    Args:
        train, validate: float32 [n, W] and [m, W]. Targets: int64, 0 .. C - 1. outputs: 1 (binary) or C.
    """
    mean, scale = train.mean(0), train.std(0) + 1e-6
    x, y = torch.from_numpy((train - mean) / scale).double(), torch.from_numpy(train_target)
    held, held_target = (
        torch.from_numpy((validate - mean) / scale).double(),
        torch.from_numpy(validate_target),
    )
    best, best_loss = None, float("inf")
    for penalty in PENALTIES:
        weight = torch.zeros(outputs, x.shape[1], dtype=torch.double, requires_grad=True)
        bias = torch.zeros(outputs, dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def closure(weight=weight, bias=bias, penalty=penalty, optimizer=optimizer):
            optimizer.zero_grad()
            loss = cross_entropy(F.linear(x, weight, bias), y) + (weight**2).sum() / (2 * penalty * len(x))
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            found = cross_entropy(F.linear(held, weight, bias), held_target).item()
        if found < best_loss:
            best, best_loss = (weight.detach(), bias.detach()), found
    weight = best[0] / torch.from_numpy(scale)
    layer = nn.Linear(x.shape[1], outputs)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(best[1] - weight @ torch.from_numpy(mean).double())
    return layer
