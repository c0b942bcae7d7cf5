"""Validation losses of pre-training, and what they say of image-text matching."""

import math
from typing import Any

import numpy as np
import torch

from medunifier.model.distributed import all_sum, own_rows, world_size
from medunifier.pretraining.gradient_cache import join_micro_batches
from medunifier.pretraining.pairs import Pairs

MARGIN = 0.01  # accuracy above a constant answer's that does not count as learned


def validation_losses(
    model: Any, pairs: Pairs, batch_size: int, weights: dict[str, float], seed: int, accumulate: int = 1
) -> dict[str, float]:
    """Return the losses over a whole split, and the perplexity of its codes at both levels.

    Batches are as large as in training, since ITC and ITM depend on it, and come in as many micro-batches. The last
    one is filled up from the start of the split. Hard negatives are the same at every call. Processes share each
    batch.

    Args:
        model: a `MedUnifierModel` in evaluation mode (its class stands above this folder).
        pairs: the split.
        batch_size: over all processes.
        weights: lambda by objective; those of weight 0 are left out.
        seed: of the hard negatives.
        accumulate: micro-batches in a batch.

    Returns:
        Means over batches by name; `perplexity_top` and `perplexity_bottom` with TIG.
    """
    device = next(model.parameters()).device
    order = np.resize(np.arange(len(pairs)), -(-len(pairs) // batch_size) * batch_size)
    sums: dict[str, float] = {}
    counts = {level: torch.zeros(model.config.codebook_size) for level in ("top", "bottom")}
    batches = order.reshape(-1, batch_size)
    for number, rows in enumerate(batches):
        share = rows[own_rows(len(rows) // world_size())]
        micro_batches = [
            pairs.model_inputs(model, {k: v.to(device) for k, v in pairs.load(part).items()})
            for part in np.split(share, accumulate)
        ]

        def generator(_: int, number: int = number) -> torch.Generator:
            return torch.Generator().manual_seed(seed + number)

        if accumulate > 1:
            micro_batches = join_micro_batches(model, micro_batches, weights, generator)
        for batch in micro_batches:
            with torch.no_grad():
                parts = model(**batch, weights=weights, generator=generator(0)).parts
                if weights["tig"] > 0:
                    codes = model.encode_codes(batch["features"], batch["input_ids"], batch["attention_mask"])
                    for level, found in zip(counts, codes, strict=True):
                        counts[level] += torch.bincount(found.flatten().cpu(), minlength=len(counts[level]))
            for name, value in parts.items():
                mean = float(all_sum(value)) / world_size() / accumulate
                sums[name] = sums.get(name, 0.0) + mean / len(batches)
    if weights["tig"] > 0:
        for level, count in counts.items():
            share = torch.distributions.Categorical(probs=all_sum(count.to(device)))
            sums[f"perplexity_{level}"] = float(share.entropy().exp())
    return sums


def constant_accuracy(values: dict[str, float]) -> float:
    """Return the accuracy of always the same answer in image-text matching, of values of `validation_losses`."""
    return max(values["itm_negatives"], 1 - values["itm_negatives"])


def matching_warning(values: dict[str, float]) -> str | None:
    """Return a warning if matching has learned nothing, or had nothing to learn from; None otherwise.

    Args:
        values: the last ones of `validation_losses`, with ITM.
    """
    share = values["itm_negatives"]
    if share == 0:
        return (
            "WARNING: image-text matching had no negatives: all reports of a batch are equal. Its loss falls to 0 for "
            "always the same answer and means nothing. Use more varied reports or a larger batch_size, set "
            "pretrain.equal_reports to negatives, or switch itm off."
        )
    accuracy, constant = values["itm_accuracy"], constant_accuracy(values)
    if accuracy > constant + MARGIN:
        return None
    entropy = -sum(p * math.log(p) for p in (share, 1 - share) if p > 0)
    return (
        f"WARNING: image-text matching ends at what always the same answer scores: accuracy {accuracy:.3f} (always the "
        f"same answer: {constant:.3f}), loss {values['itm']:.3f} (at best {entropy:.3f}). Do not use its scores; train "
        "longer, or try another learning rate or batch_size."
    )
