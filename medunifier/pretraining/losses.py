"""The four pre-training losses (paper section 3.3-3.5, Eq. 8-24), as functions of tensors.

Shapes: n rows of this process, N rows of all processes, Q queries, P projection width, L tokens, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from medunifier.model.distributed import all_gather, all_sum, own_rows, world_size
from medunifier.model.precision import at_least_float32, full_precision

UNLABELLED = -100  # label of a pair that ITM leaves out


def similarity(queries: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Return the largest cosine over an image's queries with each text (the max in Eq. 10).

    Args:
        queries: (n, Q, P), L2-normalised.
        texts: (m, P), L2-normalised.

    Returns:
        Cosines (n, m), in float32 at least, under autocast, too.
    """
    with full_precision(texts):
        return torch.einsum("nqp,mp->nqm", at_least_float32(queries), at_least_float32(texts)).amax(1)


def contrastive(
    queries: torch.Tensor,
    texts: torch.Tensor,
    temperature: torch.Tensor,
    smoothing: float = 0.0,
    gather: Callable[[torch.Tensor], torch.Tensor] = all_gather,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute ITC (Eq. 10-12) over the global batch.

    Args:
        queries: (n, Q, P), L2-normalised.
        texts: (n, P), L2-normalised; row i belongs to row i of `queries`.
        temperature: tau.
        smoothing: label smoothing (0: paper; 0.1: authors' code).
        gather: own rows -> all candidate rows (N). The identity keeps to this process (authors' code).

    Returns:
        The loss; cosines of own images with all texts (n, N); cosines of own texts with all images (n, N).
    """
    image_to_text = similarity(queries, gather(texts))
    text_to_image = similarity(gather(queries), texts).T
    n, total = image_to_text.shape
    target = torch.arange(total, device=texts.device)[_own(n, total)]
    with full_precision(texts):
        loss = (
            F.cross_entropy(image_to_text / temperature, target, label_smoothing=smoothing)
            + F.cross_entropy(text_to_image / temperature, target, label_smoothing=smoothing)
        ) / 2
    return loss, image_to_text, text_to_image


@torch.no_grad()
def hard_negatives(
    cosines: torch.Tensor, temperature: torch.Tensor, same: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    """Draw one negative for each row, with probability proportional to exp(cosine / tau) (ALBEF, Li et al. 2021).

    All rows are drawn at once: add Gumbel noise, take the largest.

    Args:
        cosines: own rows with all candidates (n, N).
        temperature: tau.
        same: (n, N), True where the candidate is no negative: the pair itself or one equal to it.
        generator: in the same state on every process, so that the draw does not depend on their number.

    Returns:
        Indices into the candidates (n,). A row whose candidates are all `same` gets the next row.
    """
    n, total = cosines.shape
    own = _own(n, total)
    uniform = torch.rand(total, total, generator=generator).clamp_(1e-20, 1 - 1e-7)[own]
    gumbel = -torch.log(-torch.log(uniform)).to(cosines.device)
    rows = torch.arange(total, device=cosines.device)[own]
    with full_precision(cosines):
        drawn = (cosines.float() / temperature + gumbel).masked_fill(same, -torch.inf).argmax(1)
    return torch.where(same.all(1), (rows + 1) % total, drawn)


def _own(n: int, total: int) -> slice:
    """Return the place of own rows among the candidates, which may be of all processes or of this one."""
    return own_rows(n) if total > n else slice(n)


def matching(
    logits: torch.Tensor, labels: torch.Tensor, labelled: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute ITM (Eq. 13): two-class cross-entropy, mean over the labelled pairs of the global batch.

    Args:
        logits: (k, 2).
        labels: (k,), 1 for a matched pair, 0 for another, `UNLABELLED` for a pair that does not count. At least one
            counts.
        labelled: number of labelled pairs in all processes (with micro-batches: its mean over them); None: it is
            summed up here.

    Returns:
        The loss, the share of right answers, and the share of negatives among the pairs: shares of this process,
        scaled so that their mean over processes is the mean over all labelled pairs.
    """
    own = (labels != UNLABELLED).sum()
    share = own * world_size() / (all_sum(own) if labelled is None else labelled)
    loss = F.cross_entropy(logits.float(), labels, ignore_index=UNLABELLED) * share
    return loss, (logits.argmax(1) == labels).sum() / own * share, (labels == 0).sum() / own * share


def generation(
    logits: torch.Tensor,
    targets: torch.Tensor,
    mask: torch.Tensor | None,
    smoothing: float = 0.0,
    tokens: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute ITG (Eq. 15): mean of -log p(token | image, tokens before) over all tokens of the global batch.

    Args:
        logits: (n, L, V) at positions 0 .. L - 1; or (R, V) of real tokens, without a mask.
        targets: the tokens that follow, (n, L) or (R,).
        mask: (n, L), True where a target is a real token; None: all are.
        smoothing: label smoothing.
        tokens: number of real tokens in all processes (with micro-batches: its mean over them); None: it is summed
            up here.
    """
    if mask is not None:
        logits, targets = logits[mask.bool()], targets[mask.bool()]
    total = F.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=smoothing)
    if tokens is None:
        tokens = all_sum(torch.tensor(len(targets), device=logits.device))
    # each process's share, scaled so that the mean over processes is the mean over all tokens
    return total * world_size() / tokens.clamp_min(1)


def reconstruction(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute the first term of TIG (Eq. 23): mean squared error of images (n, C, H, W) in [0, 1]."""
    return F.mse_loss(images.float(), targets.float())
