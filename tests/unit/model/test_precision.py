"""Under bf16 autocast, what compares the network's outputs loses no digit: it equals float32 on the same inputs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medunifier.model.image_layers import unit_length
from medunifier.model.quantizer import Quantizer
from medunifier.pretraining import losses as objectives
from tests.unit.model.test_distributed import case

CLOSE = {"rtol": 0, "atol": 1e-6}


def half():
    return torch.autocast("cpu", torch.bfloat16)


def alike(n=128, queries=4, width=64):
    """Embeddings of reports that resemble each other: cosines around 0.99."""
    torch.manual_seed(0)
    common = torch.randn(width)
    texts = F.normalize(common + 0.1 * torch.randn(n, width), dim=-1)
    return F.normalize(common + 0.1 * torch.randn(n, queries, width), dim=-1), texts


def reference(queries, texts, temperature):
    """Cosines (n, n) and Eq. 10-12 in NumPy's double precision."""
    cosines = np.einsum("nqp,mp->nqm", queries.double().numpy(), texts.double().numpy()).max(1)
    e = np.exp(cosines / temperature)
    diagonal = np.diag(e)
    return cosines, -(np.log(diagonal / e.sum(1)) + np.log(diagonal / e.sum(0))).mean() / 2


@pytest.mark.parametrize("temperature", [0.07, 0.01])
def test_the_contrastive_loss_and_its_gradients_are_those_of_float32(temperature):
    queries, texts = alike()
    cosines, expected = reference(queries, texts, temperature)
    found = []
    for context in (half(), torch.autocast("cpu", enabled=False)):
        q, t, tau = (x.clone().requires_grad_() for x in (queries, texts, torch.tensor(temperature)))
        with context:
            loss, image_to_text, text_to_image = objectives.contrastive(q, t, tau)
        found.append((loss, image_to_text, text_to_image, *torch.autograd.grad(loss, (q, t, tau))))
    for one, other in zip(*found, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, **CLOSE)
    np.testing.assert_allclose(found[0][0].item(), expected, atol=1e-5)
    np.testing.assert_allclose(found[0][1].detach().numpy(), cosines, atol=1e-6)
    row = found[0][1][0].detach()
    assert len(row.unique()) > 120, "half precision leaves a few different values"
    assert len(row.bfloat16().unique()) < 20


def test_hard_negatives_are_those_of_float32():
    queries, texts = alike()
    cosines = objectives.similarity(queries, texts)
    same, temperature = torch.eye(128, dtype=torch.bool), torch.tensor(0.01)
    drawn = []
    for context in (half(), torch.autocast("cpu", enabled=False)):
        with context:
            found = objectives.similarity(queries, texts)
            generator = torch.Generator().manual_seed(3)
            drawn.append(objectives.hard_negatives(found, temperature, same, generator))
    assert torch.equal(*drawn)
    coarse = objectives.hard_negatives(
        cosines.bfloat16(), temperature, same, torch.Generator().manual_seed(3)
    )
    assert not torch.equal(coarse, drawn[0]), "the digits matter here"


def test_losses_of_logits_and_images_are_those_of_float32():
    torch.manual_seed(1)
    logits, labels = 5 * torch.randn(40, 2), torch.randint(0, 2, (40,))
    words, targets = 5 * torch.randn(40, 300), torch.randint(0, 300, (40,))
    images, others = torch.rand(3, 1, 20, 20), torch.rand(3, 1, 20, 20)
    with half():
        found = (
            objectives.matching(logits, labels)[0],
            objectives.generation(words, targets, None),
            objectives.reconstruction(images, others),
        )
    rows = logits.double().numpy(), words.double().numpy()
    expected = [
        np.mean(np.log(np.exp(x).sum(1)) - x[np.arange(40), y.numpy()])
        for x, y in zip(rows, (labels, targets), strict=True)
    ]
    expected.append(((images.double() - others.double()) ** 2).mean().item())
    np.testing.assert_allclose([loss.item() for loss in found], expected, atol=1e-6)


def test_embeddings_and_matching_logits_are_those_of_float32():
    model, _ = case()
    torch.manual_seed(2)
    with torch.no_grad():
        for layer in (model.query_projection, model.text_projection, model.match_head):
            layer.weight.normal_()
        queries, text = torch.randn(5, 32, 16), torch.randn(5, 16)

        def outputs():
            return model.embed_queries(queries), model.embed_text(text), model.match_logits(queries)

        with half():
            found = outputs()
        for one, other in zip(found, outputs(), strict=True):
            torch.testing.assert_close(one, other, **CLOSE)
        torch.testing.assert_close(found[0].norm(dim=-1), torch.ones(5, 32), **CLOSE)


def test_latents_of_unit_length_codes_and_their_distances_are_those_of_float32():
    torch.manual_seed(3)
    coarse = torch.randn(2, 16, 4, 4).bfloat16()  # as a convolution leaves them under autocast
    with half():
        z = unit_length(coarse)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2, 4, 4), **CLOSE)
    quantizer = Quantizer(200, 16).eval()
    with torch.no_grad():
        quantizer.codebook.copy_(
            F.normalize(torch.randn(16) + 0.05 * torch.randn(200, 16), dim=1)
        )  # all alike
    with half():
        found = quantizer(z)
    plain = quantizer(z)
    assert torch.equal(found.codes, plain.codes)
    latents = z.permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    distances = ((latents[:, None] - quantizer.codebook.detach().double().numpy()) ** 2).sum(2)
    assert found.codes.flatten().tolist() == distances.argmin(1).tolist()
    for name in ("codebook_loss", "commitment_loss", "latents"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name), **CLOSE)
    np.testing.assert_allclose(found.codebook_loss.item(), distances.min(1).mean() / 16, atol=1e-6)


def test_logits_of_words_are_rounded_by_less_than_the_network_before_them():
    """The vocabulary's product stays in half precision: it is the largest. What that costs the loss is bounded here."""
    torch.manual_seed(4)
    model, _ = case(vocab_size=3001, width=64)
    hidden, targets = torch.randn(400, 64), torch.randint(0, 3001, (400,))
    with torch.no_grad():
        model.qformer.word_embeddings.weight.normal_()
        exact = objectives.generation(model.text_logits(hidden), targets, None)
        with half():
            rounded = objectives.generation(model.text_logits(hidden), targets, None)
    assert exact > 8 and 0 < abs(rounded - exact) < 2e-3 * exact
