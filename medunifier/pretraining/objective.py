"""The pre-training objective: forward of a batch to the four losses (paper Eq. 24).

Shapes: n pairs of this process, N of all processes, L text tokens, T image tokens, Q queries, W width,
V vocabulary, R rows of a packed batch.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from medunifier.model.distributed import all_gather, own_rows, world_size
from medunifier.model.network import MedUnifierNetwork
from medunifier.model.packing import Packing
from medunifier.pretraining import losses as objectives

OBJECTIVES = ("itc", "itm", "itg", "tig")
KeysValues = list[
    torch.Tensor | None
]  # of an image for each block's cross-attention; see `QFormer.read_image`


class Losses(NamedTuple):
    """Outcome of a training or validation step."""

    total: torch.Tensor  # weighted sum (Eq. 24)
    parts: dict[str, torch.Tensor]  # each objective's loss and further values to log, detached


def pretraining_losses(
    model: MedUnifierNetwork,
    features: torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor,
    images: torch.Tensor | None = None,
    weights: dict[str, float] | None = None,
    generator: torch.Generator | None = None,
) -> Losses:
    """Compute the losses of a batch; arguments as for `MedUnifierModel.forward`.

    An objective of weight 0 is not computed. ITM by itself computes ITC's similarities too, to choose negatives by.
    """
    config = model.config
    weights = dict.fromkeys(OBJECTIVES, 1.0) if weights is None else weights
    on = {name for name in OBJECTIVES if weights.get(name, 0.0) > 0}
    tokens = model.normalise_tokens(features)  # (n, T, vision width)
    image = model.qformer.read_image(tokens)
    reports = (ids, mask) if on & {"itc", "itm", "tig"} else None
    words = _words(model, ids, mask) if "itg" in on else None
    queries, _, text, written = model.qformer.encode(image, reports, words)  # (n, Q, W), _, (n, W), (R, W)
    losses: dict[str, torch.Tensor] = {}
    watch: dict[str, torch.Tensor] = {}
    if on & {"itc", "itm"}:
        assert text is not None
        losses["itc"], image_to_text, text_to_image = objectives.contrastive(
            F.normalize(model.query_projection(queries).float(), dim=-1),
            F.normalize(model.text_projection(text).float(), dim=-1),
            model.temperature,
            config.label_smoothing,
            lambda own: candidates(model, own),
        )
        if "itm" in on:
            hard = hard_negatives(model, ids, mask, image_to_text, text_to_image, generator)
            losses["itm"], watch["itm_accuracy"] = matching_loss(model, features, image, ids, mask, hard)
    if words is not None:
        assert written is not None
        targets = words[1].pick(ids[:, 1:])  # (R,)
        losses["itg"] = objectives.generation(
            model.text_logits(written), targets, None, config.label_smoothing
        )
    if "tig" in on:
        losses["tig"], terms = generator_loss(model, queries, tokens, text, images)
        watch |= terms
    losses = {name: loss for name, loss in losses.items() if name in on}
    total = torch.as_tensor(sum(weights[name] * loss for name, loss in losses.items()))
    return Losses(total, {name: value.detach() for name, value in (losses | watch).items()})


def _words(model: MedUnifierNetwork, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, Packing]:
    """Return ITG's input: ids (n, L - 1) that begin with [DEC], and the places that are followed by a token."""
    start = ids.clone()
    start[:, 0] = model.config.decode_token_id
    return start[:, :-1], Packing.of(mask[:, 1:])


def candidates(model: MedUnifierNetwork, own: torch.Tensor) -> torch.Tensor:
    """Return the rows of all processes, or own rows only with `negatives: local`."""
    return own if model.config.negatives == "local" else all_gather(own)


class HardNegatives(NamedTuple):
    """ITM's negatives, as indices into the candidates."""

    images: torch.Tensor  # (n,) for each text
    texts: torch.Tensor  # (n,) for each image
    none: torch.Tensor  # (n,) True where all candidates count as equal to the pair


def hard_negatives(
    model: MedUnifierNetwork,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_to_text: torch.Tensor,
    text_to_image: torch.Tensor,
    generator: torch.Generator | None,
) -> HardNegatives:
    """Draw a hard image for each text and a hard text for each image by ITC's cosines (n, N)."""
    n = len(ids)
    apart = model.config.equal_reports == "apart"
    key = _text_key(ids, mask) if apart else torch.arange(n, device=ids.device) + own_rows(n).start
    same = key[:, None] == candidates(model, key)  # (n, N)
    images = objectives.hard_negatives(text_to_image, model.temperature, same, generator)
    texts = objectives.hard_negatives(image_to_text, model.temperature, same, generator)
    return HardNegatives(images, texts, same.all(1))


def matching_loss(
    model: MedUnifierNetwork,
    features: torch.Tensor,
    image: KeysValues,
    ids: torch.Tensor,
    mask: torch.Tensor,
    hard: HardNegatives,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute ITM and its accuracy over 3 n pairs: own pairs, images with a hard text, texts with a hard image.

    A pair without a negative counts as a match only.
    """
    n = len(ids)
    if world_size() == 1 or model.config.negatives == "local":
        wrong_images = [None if kv is None else kv[hard.images] for kv in image]
        wrong_texts = hard.texts
    else:
        # other processes' images are encoded again here, so that gradients stay where they are used
        wrong_images = model.read_image(all_gather(features.detach())[hard.images])
        missing = model.config.max_text_tokens - ids.shape[1]
        ids = F.pad(ids, (0, missing), value=model.config.pad_token_id)
        mask = F.pad(mask, (0, missing))
        ids = torch.cat([ids, all_gather(ids)[hard.texts]])  # (2 n, L)
        mask = torch.cat([mask, all_gather(mask)[hard.texts]])
        wrong_texts = torch.arange(n, 2 * n, device=ids.device)
    own_texts = torch.arange(n, device=ids.device)
    texts = torch.cat([own_texts, wrong_texts, own_texts])
    queries = model.qformer.fuse_pairs([(image, 2), (wrong_images, 1)], ids, mask, texts)  # (3 n, Q, W)
    logits = model.match_head(queries).mean(1)  # (3 n, 2)
    negative = torch.where(hard.none, objectives.UNLABELLED, 0)
    labels = torch.cat([torch.ones_like(negative), negative, negative])
    right = logits.argmax(1) == labels
    return objectives.matching(logits, labels), right.sum() / (labels != objectives.UNLABELLED).sum()


def generator_loss(
    model: MedUnifierNetwork,
    queries: torch.Tensor,
    tokens: torch.Tensor,
    text: torch.Tensor | None,
    images: torch.Tensor | None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Compute TIG (Eq. 23): squared error, codebook and commitment term; returns their sum and each."""
    assert text is not None and images is not None, "TIG needs reports and images"
    made = model.image_generator(queries, tokens[:, 1:], text)
    mse = objectives.reconstruction(made.images, images)
    codebook = made.top.codebook_loss + made.bottom.codebook_loss
    commitment = made.top.commitment_loss + made.bottom.commitment_loss
    total = mse + model.config.codebook_weight * codebook + model.config.commitment * commitment
    return total, {"tig_mse": mse, "tig_codebook": codebook, "tig_commitment": commitment}


@torch.compiler.disable()  # Triton takes the large constant for a 32-bit integer
def _text_key(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return a 64-bit hash of each text (n,), which does not depend on padding."""
    odd = torch.arange(1, ids.shape[1] + 1, device=ids.device).mul(0x9E3779B97F4A7C1).bitwise_or(1)
    return ((ids + 1) * mask * odd).sum(1)
