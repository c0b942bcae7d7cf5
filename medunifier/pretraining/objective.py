"""The pre-training step: what a batch is passed through, and which of it each of the four losses needs."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from medunifier.model.distributed import all_gather, own_rows, world_size
from medunifier.model.network import MedUnifierNetwork
from medunifier.model.packing import Packing
from medunifier.pretraining import losses as objectives

OBJECTIVES = ("itc", "itm", "itg", "tig")


class Losses(NamedTuple):
    """Outcome of a training or validation step."""

    total: torch.Tensor  # Eq. 24
    parts: dict[str, torch.Tensor]  # each objective's loss, and what is worth watching beside it, detached


def pretraining_losses(
    model: MedUnifierNetwork,
    features: torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor,
    images: torch.Tensor | None = None,
    weights: dict[str, float] | None = None,
    generator: torch.Generator | None = None,
) -> Losses:
    """See `MedUnifierModel.forward`, which this is. ITM alone computes ITC's similarities, to draw negatives by."""
    config = model.config
    weights = dict.fromkeys(OBJECTIVES, 1.0) if weights is None else weights
    on = {name for name in OBJECTIVES if weights.get(name, 0.0) > 0}
    tokens = model.normalise_tokens(features)
    image = model.qformer.read_image(tokens)
    reports = (ids, mask) if on & {"itc", "itm", "tig"} else None
    words = None
    if "itg" in on:
        start = ids.clone()
        start[:, 0] = config.decode_token_id
        words = start[:, :-1], Packing.of(mask[:, 1:])  # places that are followed by a word
    queries, _, text, written = model.qformer.encode(image, reports, words)
    losses, watch = {}, {}
    if on & {"itc", "itm"}:
        losses["itc"], image_to_text, text_to_image = objectives.contrastive(
            F.normalize(model.query_projection(queries).float(), dim=-1),
            F.normalize(model.text_projection(text).float(), dim=-1),
            model.temperature,
            config.label_smoothing,
            lambda own: candidates(model, own),
        )
    if "itm" in on:
        losses["itm"], watch["itm_accuracy"] = matching_loss(
            model, features, image, ids, mask, image_to_text, text_to_image, generator
        )
    if "itg" in on:
        targets = words[1].pick(ids[:, 1:])
        losses["itg"] = objectives.generation(model.text_logits(written), targets, None, config.label_smoothing)
    if "tig" in on:
        made = model.image_generator(queries, tokens[:, 1:], text)
        watch["tig_mse"] = objectives.reconstruction(made.images, images)
        watch["tig_codebook"] = made.top.codebook_loss + made.bottom.codebook_loss
        watch["tig_commitment"] = made.top.commitment_loss + made.bottom.commitment_loss
        losses["tig"] = (
            watch["tig_mse"]
            + config.codebook_weight * watch["tig_codebook"]
            + config.commitment * watch["tig_commitment"]
        )
    losses = {name: loss for name, loss in losses.items() if name in on}
    total = sum(weights[name] * loss for name, loss in losses.items())
    return Losses(total, {name: value.detach() for name, value in (losses | watch).items()})


def candidates(model: MedUnifierNetwork, own: torch.Tensor) -> torch.Tensor:
    """Rows of all processes, or own rows alone where `negatives` is `local`."""
    return own if model.config.negatives == "local" else all_gather(own)


def matching_loss(
    model: MedUnifierNetwork, features, image, ids, mask, image_to_text, text_to_image, generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """ITM over (own pairs; each image with a hard text; each text with a hard image) and its accuracy.

    A pair that has no negative, as all others count as equal to it, counts as a match alone.
    """
    n = len(ids)
    apart = model.config.equal_reports == "apart"
    key = _text_key(ids, mask) if apart else torch.arange(n, device=ids.device) + own_rows(n).start
    same = key[:, None] == candidates(model, key)
    hard_images = objectives.hard_negatives(text_to_image, model.temperature, same, generator)
    hard_texts = objectives.hard_negatives(image_to_text, model.temperature, same, generator)
    if world_size() == 1 or model.config.negatives == "local":
        wrong_images = [None if kv is None else kv[hard_images] for kv in image]
        wrong_texts = hard_texts
    else:
        # other processes' images are read here anew, so that gradients stay where they are used
        wrong_images = model.read_image(all_gather(features.detach())[hard_images])
        missing = model.config.max_text_tokens - ids.shape[1]
        ids = F.pad(ids, (0, missing), value=model.config.pad_token_id)
        mask = F.pad(mask, (0, missing))
        ids = torch.cat([ids, all_gather(ids)[hard_texts]])
        mask = torch.cat([mask, all_gather(mask)[hard_texts]])
        wrong_texts = torch.arange(n, 2 * n, device=ids.device)
    own_texts = torch.arange(n, device=ids.device)
    texts = torch.cat([own_texts, wrong_texts, own_texts])
    queries = model.qformer.fuse_pairs([(image, 2), (wrong_images, 1)], ids, mask, texts)
    logits = model.match_head(queries).mean(1)
    negative = torch.where(same.all(1), objectives.UNLABELLED, 0)
    labels = torch.cat([torch.ones_like(negative), negative, negative])
    right = logits.argmax(1) == labels
    return objectives.matching(logits, labels), right.sum() / (labels != objectives.UNLABELLED).sum()


@torch.compiler.disable  # Triton takes the large number for one of 32 bits
def _text_key(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(n,): a 64-bit hash of each text, whatever the padding behind it."""
    odd = torch.arange(1, ids.shape[1] + 1, device=ids.device).mul(0x9E3779B97F4A7C1).bitwise_or(1)
    return ((ids + 1) * mask * odd).sum(1)
