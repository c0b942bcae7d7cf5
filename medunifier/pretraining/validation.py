"""Validation losses of pre-training."""

from typing import Any

import numpy as np
import torch

from medunifier.model.distributed import all_sum, own_rows, world_size
from medunifier.pretraining.gradient_cache import join_micro_batches
from medunifier.pretraining.pairs import Pairs


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
