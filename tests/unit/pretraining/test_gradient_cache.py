"""Micro-batches joined by the gradient cache against one large batch."""

import numpy as np
import pytest
import torch

from medunifier.pretraining.gradient_cache import join_micro_batches
from medunifier.pretraining.objective import OBJECTIVES
from tests.unit.model.test_distributed import case

EQUAL = {"itc": 1.0, "itm": 1.0, "itg": 1.0, "tig": 1.0}


def generator(_: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(11)


def model_and_batch(**changes):
    """A model whose codes stay where they are, and six pairs of which two have the same report."""
    model, batch = case(codebook_start="uniform", **changes)
    for name in ("input_ids", "attention_mask"):
        batch[name][4] = batch[name][1]
    torch.manual_seed(5)
    for part in (model.query_projection, model.text_projection, model.match_head):
        torch.nn.init.normal_(part.weight)
    return model.train(), batch


def in_double(model, batch):
    """Rounding of the network aside; the losses of logits and images stay in float32."""
    return model.double(), {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}


def split(batch, count):
    """Micro-batches, their texts padded no further than each needs."""
    parts = [
        dict(zip(batch, values, strict=True))
        for values in zip(*(v.chunk(count) for v in batch.values()), strict=True)
    ]
    for part in parts:
        length = int(part["attention_mask"].sum(1).max())
        part |= {name: part[name][:, :length] for name in ("input_ids", "attention_mask")}
    return parts


def large(model, batch, weights):
    losses = model(**batch, weights=weights, generator=generator())
    losses.total.backward()
    return losses.parts, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def joined(model, batch, weights, count, seed=generator):
    parts: dict[str, float] = {}
    for number, part in enumerate(join_micro_batches(model, split(batch, count), weights, seed)):
        losses = model(**part, weights=weights, generator=seed(number))
        (losses.total / count).backward()
        for name, value in losses.parts.items():
            parts[name] = parts.get(name, 0.0) + value / count
    return parts, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize(
    "weights",
    [EQUAL, {"itc": 0.5, "itm": 2.0}, {"itm": 1.0}, {"itc": 1.0}, {"itg": 1.0, "tig": 1.0}],
    ids=lambda weights: "-".join(weights),
)
def test_losses_and_gradients_are_those_of_one_large_batch(count, weights):
    weights = dict.fromkeys(OBJECTIVES, 0.0) | weights
    one, gradients = large(*in_double(*model_and_batch()), weights)
    parts, found = joined(*in_double(*model_and_batch()), weights, count)
    assert parts.keys() == one.keys() and found.keys() == gradients.keys()
    for name, value in one.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6, msg=name)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_micro_batches_by_themselves_are_not_one_large_batch():
    """Otherwise the test above would show nothing."""
    weights = dict.fromkeys(OBJECTIVES, 0.0) | {"itc": 1.0}
    one, _ = large(*model_and_batch(), weights)
    model, batch = model_and_batch()
    alone = [float(model(**part, weights=weights).parts["itc"]) for part in split(batch, 3)]
    assert abs(np.mean(alone) - float(one["itc"])) > 0.1


def test_with_dropout_gradients_are_those_of_one_graph_through_the_same_masks():
    """Against plain autograd: all micro-batches embedded with gradients, under the masks of the second pass."""
    weights = dict.fromkeys(OBJECTIVES, 0.0) | {"itc": 1.0}

    def seed(number: int) -> torch.Generator:
        torch.manual_seed(100 + number)
        return generator()

    _, found = joined(*model_and_batch(dropout=0.3), weights, 3, seed)
    model, batch = model_and_batch(dropout=0.3)
    queries, texts = [], []
    for number, part in enumerate(split(batch, 3)):
        seed(number)
        image = model.read_image(part["features"])
        encoded = model.qformer.encode(image, (part["input_ids"], part["attention_mask"]))
        queries.append(torch.nn.functional.normalize(model.query_projection(encoded.queries), dim=-1))
        texts.append(torch.nn.functional.normalize(model.text_projection(encoded.text), dim=-1))
    cosines = torch.einsum("nqp,mp->nqm", torch.cat(queries), torch.cat(texts)).amax(1) / model.temperature
    own = torch.arange(6)
    loss = sum(torch.nn.functional.cross_entropy(x, own) for x in (cosines, cosines.T)) / 2
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=2e-6, msg=name)
    assert "log_temperature" in found and found["log_temperature"].abs() > 0


def test_under_bf16_the_weights_that_the_first_pass_cast_still_get_gradients():
    model, batch = model_and_batch()
    with torch.autocast("cpu", torch.bfloat16):
        inputs = join_micro_batches(model, split(batch, 3), EQUAL, generator)
    for part in inputs:
        with torch.autocast("cpu", torch.bfloat16):
            total = model(**part, weights=EQUAL, generator=generator()).total / 3
        total.backward()
    exact = large(*model_and_batch(), EQUAL)[1]
    for name, parameter in model.named_parameters():
        if name in exact:
            assert parameter.grad is not None, name
    ours, theirs = (
        torch.cat([g[name].flatten() for name in exact])
        for g in ({name: p.grad for name, p in model.named_parameters()}, exact)
    )
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.98
