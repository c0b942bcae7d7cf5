"""Each loss against a slow per-sample version in NumPy."""

import numpy as np
import pytest
import torch

from medunifier.pretraining import losses as objectives


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def test_contrastive_equals_equations_10_to_12():
    torch.manual_seed(0)
    n, tau = 5, 0.13
    queries, texts = unit(torch.randn(n, 4, 6)), unit(torch.randn(n, 6))
    loss, image_to_text, text_to_image = objectives.contrastive(queries, texts, torch.tensor(tau))
    q, t = queries.numpy().astype(float), texts.numpy().astype(float)
    best = np.array([[max(q[i, k] @ t[j] for k in range(4)) for j in range(n)] for i in range(n)])
    terms = []
    for k in range(n):
        terms.append(-np.log(np.exp(best[k, k] / tau) / sum(np.exp(best[k, j] / tau) for j in range(n))))
        terms.append(-np.log(np.exp(best[k, k] / tau) / sum(np.exp(best[j, k] / tau) for j in range(n))))
    np.testing.assert_allclose(loss.item(), np.mean(terms), rtol=1e-5)
    np.testing.assert_allclose(image_to_text.numpy(), best, atol=1e-6)
    np.testing.assert_allclose(text_to_image.numpy(), best.T, atol=1e-6)


def test_label_smoothing_equals_its_definition():
    """Targets of the authors' code (Szegedy et al. 2016): 1 - 0.1 on the right one, and 0.1 spread evenly over all."""

    def smoothed(row, target, smoothing=0.1):
        share = np.full(len(row), smoothing / len(row))
        share[target] += 1 - smoothing
        return -(share * (row - np.log(np.exp(row).sum()))).sum()

    torch.manual_seed(3)
    n, tau = 4, 0.2
    queries, texts = unit(torch.randn(n, 3, 6)), unit(torch.randn(n, 6))
    loss, _, _ = objectives.contrastive(queries, texts, torch.tensor(tau), 0.1)
    best = np.einsum("iqp,jp->ijq", queries.double().numpy(), texts.double().numpy()).max(2) / tau
    terms = [smoothed(row, k) for k, row in enumerate(best)] + [
        smoothed(row, k) for k, row in enumerate(best.T)
    ]
    np.testing.assert_allclose(loss.item(), np.mean(terms), rtol=1e-5)

    logits, targets = torch.randn(2, 3, 7), torch.randint(0, 7, (2, 3))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    rows = logits.double().numpy()
    terms = [smoothed(rows[i, j], targets[i, j]) for i, j in np.argwhere(mask.numpy())]
    loss = objectives.generation(logits, targets, mask, 0.1)
    np.testing.assert_allclose(loss.item(), np.mean(terms), rtol=1e-5)


def test_generation_is_the_mean_over_real_tokens():
    torch.manual_seed(1)
    logits, targets = torch.randn(3, 4, 7), torch.randint(0, 7, (3, 4))
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    terms = []
    for i in range(3):
        for j in range(4):
            if mask[i, j]:
                row = logits[i, j].double().numpy()
                terms.append(np.log(np.exp(row).sum()) - row[targets[i, j]])
    loss = objectives.generation(logits, targets, mask)
    np.testing.assert_allclose(loss.item(), np.mean(terms), rtol=1e-5)


def test_matching_is_two_class_cross_entropy():
    logits, labels = torch.tensor([[0.0, 2.0], [1.0, -1.0], [0.5, 0.5]]), torch.tensor([1, 1, 0])
    p = [np.exp(2) / (1 + np.exp(2)), np.exp(-1) / (np.exp(1) + np.exp(-1)), 0.5]
    loss, accuracy, negatives = objectives.matching(logits, labels)
    np.testing.assert_allclose(loss.item(), -np.log(p).mean(), rtol=1e-6)
    assert accuracy == pytest.approx(2 / 3) and negatives == pytest.approx(1 / 3)
    labels[1] = objectives.UNLABELLED
    loss, accuracy, negatives = objectives.matching(logits, labels)
    np.testing.assert_allclose(loss.item(), -np.log([p[0], p[2]]).mean(), rtol=1e-6)
    assert accuracy == 1 and negatives == 0.5


def test_hard_negatives_follow_the_softmax_and_avoid_equal_texts():
    cosines = torch.tensor([[0.9, 0.5, 0.3, 0.1], [0.2, 0.9, 0.2, 0.2], [0.0] * 4, [0.0] * 4])
    tau = torch.tensor(0.2)
    same = torch.eye(4, dtype=torch.bool)
    same[1, 2] = True
    same[3] = True
    counts = np.zeros((4, 4))
    generator = torch.Generator().manual_seed(0)
    draws = 4000
    for _ in range(draws):
        drawn = objectives.hard_negatives(cosines, tau, same, generator)
        counts[np.arange(4), drawn.numpy()] += 1
    for i in range(3):
        weight = np.exp(cosines[i].numpy() / 0.2) * ~same[i].numpy()
        np.testing.assert_allclose(counts[i] / draws, weight / weight.sum(), atol=0.03)
    assert counts[3].tolist() == [draws, 0, 0, 0]  # nothing but equals: the next row


def test_reconstruction_is_the_mean_squared_error():
    a, b = torch.rand(2, 1, 3, 3), torch.rand(2, 1, 3, 3)
    expected = ((a.numpy() - b.numpy()) ** 2).mean()
    np.testing.assert_allclose(objectives.reconstruction(a, b).item(), expected, rtol=1e-6)
