"""Micro-batches that contrast and match as one large batch, with exact gradients (GradCache, Gao et al. 2021).

ITC compares each image with all reports of a batch, and ITM's negatives come from all of it. Micro-batches by
themselves would see a part of the candidates only. So two passes:

1. Without gradients, embed all micro-batches. Of these embeddings compute ITC over the whole batch and its gradient
   at each embedding; draw ITM's hard negatives; count the pairs and tokens that the means are over.
2. Micro-batch after micro-batch, compute everything again with gradients. The product of embedding and stored
   gradient stands for ITC: its gradient is ITC's, by the chain rule.

The first pass costs the forward of the Q-Former once more. In memory are the activations of one micro-batch, and the
inputs and embeddings of all.

With dropout, both passes of a micro-batch use the same masks. Not shared by the micro-batches: the statistics of
batch normalisation in the image generator, and the latents that codes are moved to, which are the first micro-batch's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from medunifier.model.distributed import all_sum
from medunifier.model.network import MedUnifierNetwork
from medunifier.pretraining import matching
from medunifier.pretraining.matching import Fetched
from medunifier.pretraining.objective import WholeBatch, contrastive, encode, switched_on

Inputs = dict[str, Any]  # arguments of `MedUnifierModel.forward`


def join_micro_batches(
    model: MedUnifierNetwork,
    batches: Sequence[Inputs],
    weights: dict[str, float],
    seed: Callable[[int], torch.Generator],
) -> list[Inputs]:
    """Return the micro-batches of a step, each with what it needs to know of the others as `whole`.

    Args:
        model: the network itself.
        batches: `features`, `input_ids`, `attention_mask` of micro-batches of equal size.
        weights: lambda by objective.
        seed: micro-batch -> generator of its random choices; puts dropout's random numbers in the state that this
            micro-batch is trained with. The first one's generator draws the hard negatives.
    """
    on, count = switched_on(weights), len(batches)
    shared = WholeBatch()
    if "itg" in on:
        tokens = torch.stack([batch["attention_mask"][:, 1:].sum() for batch in batches]).sum()
        shared = shared._replace(tokens=all_sum(tokens) / count)
    if not on.keys() & {"itc", "itm"}:
        return [batch | {"whole": shared} for batch in batches]

    queries, texts = _embed(model, batches, on, seed)
    log_temperature = model.log_temperature.detach().clone().requires_grad_()
    with torch.enable_grad():
        itc, *cosines = contrastive(model, queries, texts, log_temperature.exp())
    gradients = torch.autograd.grad(itc, (queries, texts, log_temperature))
    shared = shared._replace(itc=itc.detach(), temperature_gradient=gradients[2])
    # The loop takes the mean over micro-batches, and each embedding is in one of them.
    split = [(gradient * count).chunk(count) for gradient in gradients[:2]]
    joined = [
        shared._replace(query_gradient=of_queries, text_gradient=of_texts)
        for of_queries, of_texts in zip(*split, strict=True)
    ]
    if "itm" in on:
        negatives, labelled = _negatives(model, batches, [part.detach() for part in cosines], seed(0))
        joined = [
            whole._replace(negatives=own, labelled=labelled)
            for whole, own in zip(joined, negatives, strict=True)
        ]
    return [batch | {"whole": whole} for batch, whole in zip(batches, joined, strict=True)]


def _embed(
    model: MedUnifierNetwork,
    batches: Sequence[Inputs],
    on: dict[str, float],
    seed: Callable[[int], torch.Generator],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embeddings of all queries (m, Q, P) and texts (m, P) of this process, as leaves with gradients."""
    queries, texts = [], []
    with torch.no_grad():
        for number, batch in enumerate(batches):
            seed(number)
            inputs = batch["features"], batch["input_ids"], batch["attention_mask"]
            encoded = encode(
                model, *inputs, on
            )  # the very call of the second pass, so that dropout is the same
            assert encoded.text is not None
            queries.append(model.embed_queries(encoded.queries))
            texts.append(model.embed_text(encoded.text))
    return torch.cat(queries).requires_grad_(), torch.cat(texts).requires_grad_()


def _negatives(
    model: MedUnifierNetwork,
    batches: Sequence[Inputs],
    cosines: Sequence[torch.Tensor],
    generator: torch.Generator,
) -> tuple[list[Fetched], torch.Tensor]:
    """Draw ITM's negatives from the whole batch.

    Returns:
        Those of each micro-batch; the number of pairs that count, over all processes, mean over micro-batches.
    """
    length = max(batch["input_ids"].shape[1] for batch in batches)
    ids, mask = (
        torch.cat([F.pad(batch[name], (0, length - batch[name].shape[1])) for batch in batches])
        for name in ("input_ids", "attention_mask")
    )
    features = torch.cat([batch["features"] for batch in batches])
    image_to_text, text_to_image = cosines
    hard = matching.draw_hard_negatives(model, ids, mask, image_to_text, text_to_image, generator)
    labelled = len(hard.none) + 2 * (~hard.none).sum()
    parts = zip(*(part.chunk(len(batches)) for part in hard), strict=True)
    fetched = [matching.fetch(model, features, ids, mask, matching.HardNegatives(*part)) for part in parts]
    return fetched, all_sum(labelled) / len(batches)
