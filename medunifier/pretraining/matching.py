"""Image-text matching (ITM, paper Eq. 13-14): its hard negatives, where they are, and its loss.

Shapes: n pairs of this process, N of all processes (of this one with `negatives: local`), L text tokens, T image
tokens, Q queries, W width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from medunifier.model.distributed import all_gather, fetch_rows, own_rows
from medunifier.model.network import MedUnifierNetwork
from medunifier.pretraining import losses as objectives

# Of an image, for each block's cross-attention; see `QFormer.read_image`.
KeysValues = list[torch.Tensor | None]


class HardNegatives(NamedTuple):
    """Negatives as indices into the candidates."""

    images: torch.Tensor  # (n,) for each text
    texts: torch.Tensor  # (n,) for each image
    none: torch.Tensor  # (n,) True where all candidates count as equal to the pair


class Fetched(NamedTuple):
    """Negatives that are no part of the batch itself."""

    features: torch.Tensor  # (n, T, vision width) of an image for each text
    ids: torch.Tensor  # (n, L') of a text for each image
    mask: torch.Tensor  # (n, L')
    none: torch.Tensor  # (n,)


class Negatives(NamedTuple):
    """Negatives as `matching_loss` takes them."""

    images: KeysValues  # n of them
    ids: torch.Tensor  # (U, L) texts, of which the first n are the pairs' own
    mask: torch.Tensor  # (U, L)
    texts: torch.Tensor  # (n,) numbers of negatives among these texts
    none: torch.Tensor  # (n,)


def candidates(model: MedUnifierNetwork, own: torch.Tensor) -> torch.Tensor:
    """Return the rows of all processes, or own rows only with `negatives: local`."""
    return own if model.config.negatives == "local" else all_gather(own)


def draw_hard_negatives(
    model: MedUnifierNetwork,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_to_text: torch.Tensor,
    text_to_image: torch.Tensor,
    generator: torch.Generator | None,
) -> HardNegatives:
    """Draw a hard image for each text and a hard text for each image by ITC's cosines (n, N)."""
    n, total = image_to_text.shape
    rows = torch.arange(total, device=ids.device)
    if model.config.equal_reports == "apart":
        rows = equal_texts(candidates(model, _full_length(model, (ids + 1) * mask)))
    own = rows[own_rows(n)] if total > n else rows
    same = own[:, None] == rows  # (n, N)
    images = objectives.hard_negatives(text_to_image, model.temperature, same, generator)
    texts = objectives.hard_negatives(image_to_text, model.temperature, same, generator)
    return HardNegatives(images, texts, same.all(1))


@torch.compiler.disable()  # the number of different texts is known only when it runs
def equal_texts(ids: torch.Tensor) -> torch.Tensor:
    """Return a number for each text (N,), the same for equal ones; ids (N, L) above 0, and 0 at padding.

    Whole rows are compared, not a hash of them, which may be equal for two texts.
    """
    return torch.unique(ids, dim=0, return_inverse=True)[1]


def here(image: KeysValues, ids: torch.Tensor, mask: torch.Tensor, hard: HardNegatives) -> Negatives:
    """Return negatives that are in this batch: images are not read again, and a text is encoded once."""
    images = [None if part is None else part[hard.images] for part in image]
    return Negatives(images, ids, mask, hard.texts, hard.none)


def fetch(
    model: MedUnifierNetwork,
    features: torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor,
    hard: HardNegatives,
) -> Fetched:
    """Bring the features and texts of hard negatives, and no others, from the process that has each.

    Args:
        model: tells whether candidates are of all processes.
        features: of all rows that are this process's candidates (n, T, vision width).
        ids: of the same rows (n, L).
        mask: of the same rows (n, L).
        hard: for these rows or some of them.
    """
    start = own_rows(len(ids)).start if model.config.negatives == "local" else 0
    images, texts = hard.images + start, hard.texts + start
    ids, mask = (fetch_rows(_full_length(model, part), texts) for part in (ids, mask))
    return Fetched(fetch_rows(features, images), ids, mask, hard.none)


def read_again(
    model: MedUnifierNetwork, ids: torch.Tensor, mask: torch.Tensor, fetched: Fetched
) -> Negatives:
    """Return fetched negatives after the own texts (n, L); their images are read here.

    Gradients then stay on the process and in the micro-batch where they are used.
    """
    n = len(ids)
    ids = torch.cat([_full_length(model, ids), fetched.ids])  # (2 n, L)
    mask = torch.cat([_full_length(model, mask), fetched.mask])
    images = model.read_image(fetched.features)
    return Negatives(images, ids, mask, torch.arange(n, 2 * n, device=ids.device), fetched.none)


def _full_length(model: MedUnifierNetwork, x: torch.Tensor) -> torch.Tensor:
    """Return ids or a mask (n, L) filled up to the longest text, so that all processes have the same shape.

    What fills up ids is masked.
    """
    return F.pad(x, (0, model.config.max_text_tokens - x.shape[1]))


def matching_loss(
    model: MedUnifierNetwork,
    image: KeysValues,
    negatives: Negatives,
    labelled: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Compute ITM over 3 n pairs: own pairs, images with a hard text, texts with a hard image.

    A pair without a negative counts as a match only.

    Args:
        model: the network.
        image: own images.
        negatives: of the same pairs.
        labelled: see `losses.matching`.

    Returns:
        The loss, and values to log: `itm_accuracy`, and `itm_negatives`, the share of negatives among the pairs that
        count.
    """
    n = len(negatives.none)
    own_texts = torch.arange(n, device=negatives.ids.device)
    texts = torch.cat([own_texts, negatives.texts, own_texts])
    images = [(image, 2), (negatives.images, 1)]
    queries = model.qformer.fuse_pairs(images, negatives.ids, negatives.mask, texts)  # (3 n, Q, W)
    logits = model.match_logits(queries)  # (3 n, 2)
    negative = torch.where(negatives.none, objectives.UNLABELLED, 0)
    labels = torch.cat([torch.ones_like(negative), negative, negative])
    loss, accuracy, share = objectives.matching(logits, labels, labelled)
    return loss, {"itm_accuracy": accuracy, "itm_negatives": share}
