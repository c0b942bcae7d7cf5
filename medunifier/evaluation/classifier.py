"""Image classification on a pre-trained encoder: linear head, linear probe (paper section 4.2, Table 1)."""

import copy
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.network import MedUnifierNetwork
from medunifier.model.precision import at_least_float32

HEAD_WIDTH = 768  # between the two layers of the authors' head
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)  # inverse L2 penalties among which the probe chooses


class ImageEncoder(nn.Module):
    """A trainable image encoder: maps a batch to vectors (B, `width`)."""

    width: int

    def side_by_side(self) -> Self:
        """Return the encoder, by the same weights, with all its outputs in the vector; itself if it has only one."""
        return self


class QueryEncoder(ImageEncoder):
    """The image side of MedUnifier: the norm after the frozen encoder, the queries and their blocks.

    The queries attend to themselves and to the image, never to text (uni-modal mask of paper Fig. 2).
    """

    def __init__(self, model: MedUnifierNetwork):
        super().__init__()
        self.vision_norm, self.qformer = model.vision_norm, model.qformer
        self.width, self.queries, self.mean = model.config.width, model.config.queries, True

    def side_by_side(self) -> Self:
        """Return the encoder with the outputs of all queries, one after the other: (B, Q * W)."""
        changed = copy.copy(self)
        changed.width, changed.mean = self.width * self.queries, False
        return changed

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the mean (B, W) of the queries' outputs for features (B, T, vision width)."""
        queries, _ = self.qformer.encode_queries(self.qformer.read_image(self.vision_norm(features)))
        return queries.mean(1) if self.mean else queries.flatten(1)


class Classifier(nn.Module):
    """An image encoder with a head that starts at zero.

    Args:
        encoder: Maps a batch to vectors (B, `width`).
        outputs: 1 for a binary task (logit of the positive class), the number of classes or labels otherwise.
        head: `linear`; or `two_layers`, on all outputs of the encoder side by side (the authors' code: nothing stands
            between the two linear layers).
    """

    def __init__(self, encoder: ImageEncoder, outputs: int, head: str = "linear"):
        super().__init__()
        two = {"linear": False, "two_layers": True}[head]
        self.encoder = encoder.side_by_side() if two else encoder
        first = [nn.Linear(self.encoder.width, HEAD_WIDTH)] if two else []
        self.last = nn.Linear(HEAD_WIDTH if two else self.encoder.width, outputs)
        self.head: nn.Module = nn.Sequential(*first, self.last) if two else self.last
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def start_head(self, start: str, probe: nn.Linear) -> None:
        """Start the last layer of the head at zero, at random or, if it is the only layer, on a linear probe."""
        if start == "probe":
            self.last.load_state_dict(probe.state_dict())
        elif start == "random":
            self.last.reset_parameters()
        else:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, outputs) of what the encoder reads, (B, ...)."""
        return self.head(self.encoder(images))

    def parameter_groups(
        self, rate: float, head_rate: float, weight_decay: float, decay_all: bool = False
    ) -> list[dict[str, Any]]:
        """Return AdamW groups for a `Trainer` with `head_rate` as its recipe's learning rate.

        Args:
            rate: Learning rate of the pre-trained weights.
            head_rate: Learning rate of the head.
            weight_decay: Weight decay of matrices; vectors do not decay.
            decay_all: Vectors decay, too.
        """
        groups = []
        for part, scale in ((self.encoder, rate / head_rate), (self.head, 1.0)):
            for matrices, decay in ((True, weight_decay), (False, weight_decay if decay_all else 0.0)):
                chosen = [p for p in part.parameters() if p.requires_grad and (p.ndim >= 2) == matrices]
                if chosen:
                    groups.append({"params": chosen, "weight_decay": decay, "rate_scale": scale})
        return groups


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute the mean loss of logits (B, outputs).

    Args:
        logits: (B, 1), (B, C) or (B, L).
        target: 0 and 1, int64 (B,); class numbers, int64 (B,); or, of labels that do not exclude each other, 1, 0, or
            negative where the label is ignored, int64 (B, L): the mean is over what is not ignored.
    """
    logits = at_least_float32(logits)
    if target.ndim == 2:
        known = target >= 0
        losses = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
        return torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1)
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], target.to(logits.dtype))
    return F.cross_entropy(logits, target)


def probabilities(logits: torch.Tensor, *, many_labels: bool = False) -> torch.Tensor:
    """Turn logits (B, outputs) into probabilities (B, C) of all classes; (not positive, positive) of a binary task.

    With `many_labels`, (B, L): of each of the labels, which do not exclude each other.
    """
    if many_labels:
        return torch.sigmoid(logits)
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
    """Fit a linear probe: logistic regression on frozen vectors, with the L2 penalty chosen on validation.

    Vectors are standardised by the training part's mean and deviation; the returned layer takes plain vectors.

    Args:
        train: Vectors, float32 [n, W].
        train_target: Class numbers 0 .. C - 1, int64 [n]; or [n, L], as for `cross_entropy`.
        validate: Vectors, float32 [m, W].
        validate_target: As `train_target`, of the m images.
        outputs: 1 for a binary task, C or L otherwise.
    """
    mean, scale = train.mean(0), train.std(0) + 1e-6
    x, y = torch.from_numpy((train - mean) / scale).double(), torch.from_numpy(train_target)
    held, held_target = (
        torch.from_numpy((validate - mean) / scale).double(),
        torch.from_numpy(validate_target),
    )
    terms = int((y >= 0).sum())  # of the mean loss: images, or known labels
    best_loss, best = float("inf"), None
    for penalty in PENALTIES:
        weight = torch.zeros(outputs, x.shape[1], dtype=torch.double, requires_grad=True)
        bias = torch.zeros(outputs, dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def closure(weight=weight, bias=bias, penalty=penalty, optimizer=optimizer) -> float:
            optimizer.zero_grad()
            loss = cross_entropy(F.linear(x, weight, bias), y) + (weight**2).sum() / (2 * penalty * terms)
            loss.backward()
            return loss.item()

        optimizer.step(closure)
        with torch.no_grad():
            found = cross_entropy(F.linear(held, weight, bias), held_target).item()
        if found < best_loss:
            best_loss, best = found, (weight.detach(), bias.detach())
    if best is None:
        raise ValueError("no penalty gives a finite validation loss")
    weight = best[0] / torch.from_numpy(scale)
    layer = nn.Linear(x.shape[1], outputs)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(best[1] - weight @ torch.from_numpy(mean).double())
    return layer
