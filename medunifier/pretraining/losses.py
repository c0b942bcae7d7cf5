"""The four pre-training losses (paper section 3.3-3.5, Eq. 8-24), as functions of tensors.

Shapes: n rows of this process, N rows of all processes, Q queries, P projection width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from medunifier.model.distributed import all_gather, all_sum, own_rows, world_size

UNLABELLED = -100  # label of a pair that ITM leaves out


def similarity(queries: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Best cosine over the queries of each image with each text (Eq. 10, the max inside).

    queries (n, Q, P) and texts (m, P), both L2-normalised -> (n, m).
    """
    return torch.einsum("nqp,mp->nqm", queries, texts).amax(1)


def contrastive(
    queries: torch.Tensor,
    texts: torch.Tensor,
    temperature: torch.Tensor,
    smoothing: float = 0.0,
    gather: Callable[[torch.Tensor], torch.Tensor] = all_gather,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ITC (Eq. 10-12) over the global batch.

    Args:
        queries (n, Q, P), texts (n, P): L2-normalised, row i of one belongs to row i of the other.
        temperature: tau. smoothing: label smoothing (0: paper; 0.1: release).
        gather: own rows -> all rows that serve as candidates (N); the identity keeps to this process (release).

    Returns:
        the loss; cosines of own images with all texts (n, N); cosines of own texts with all images (n, N).
    """
    image_to_text = similarity(queries, gather(texts))
    text_to_image = similarity(gather(queries), texts).T
    n, total = image_to_text.shape
    target = torch.arange(total, device=texts.device)[_own(n, total)]
    loss = (
        F.cross_entropy(image_to_text / temperature, target, label_smoothing=smoothing)
        + F.cross_entropy(text_to_image / temperature, target, label_smoothing=smoothing)
    ) / 2
    return loss, image_to_text, text_to_image


@torch.no_grad()
def hard_negatives(
    cosines: torch.Tensor, temperature: torch.Tensor, same: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """One negative for each row, drawn in proportion to exp(cosine / tau) (ALBEF, Li et al. 2021).

    All rows are drawn at once, by adding Gumbel noise and taking the largest.

    Args:
        cosines (n, N): own rows against all candidates.
        same (n, N): True where the candidate is no negative: the pair itself or one equal to it.
        generator: in the same state on every process, so that the draw does not depend on their number.

    Returns:
        (n,) indices into the global batch. A row whose candidates are all `same` gets the next row.
    """
    n, total = cosines.shape
    own = _own(n, total)
    uniform = torch.rand(total, total, generator=generator).clamp_(1e-20, 1 - 1e-7)[own]
    gumbel = -torch.log(-torch.log(uniform)).to(cosines.device)
    rows = torch.arange(total, device=cosines.device)[own]
    drawn = (cosines.float() / temperature + gumbel).masked_fill(same, -torch.inf).argmax(1)
    return torch.where(same.all(1), (rows + 1) % total, drawn)


def _own(n: int, total: int) -> slice:
    """Where own rows stand among all candidates, be these of all processes or of this one."""
    return own_rows(n) if total > n else slice(n)


def matching(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """ITM (Eq. 13): two-class cross-entropy, mean over the labelled pairs.

    logits (k, 2), labels (k,): 1 for a matched pair, 0 for another, UNLABELLED for a pair that does not count.
    """
    return F.cross_entropy(logits.float(), labels, ignore_index=UNLABELLED)


def generation(
    logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor | None, smoothing: float = 0.0
) -> torch.Tensor:
    """ITG (Eq. 15): mean over all tokens of the global batch of -log p(token | image, tokens before).

    logits (n, L, V) at positions 0 .. L-1, targets (n, L) the tokens that follow, mask (n, L) of real targets;
    or logits (R, V) and targets (R,), all of them real, and no mask.
    """
    if mask is not None:
        logits, targets = logits[mask.bool()], targets[mask.bool()]
    total = F.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=smoothing)
    # each process's share, scaled so that the mean over processes is the mean over all tokens
    return total * world_size() / all_sum(torch.tensor(len(targets), device=logits.device)).clamp_min(1)


def reconstruction(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """First term of TIG (Eq. 23): mean squared error of (n, C, H, W) in [0, 1]."""
    return F.mse_loss(images.float(), targets.float())
