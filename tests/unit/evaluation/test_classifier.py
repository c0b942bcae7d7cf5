"""Fine-tuning's parts: the encoder sees images alone, the probe is logistic regression."""

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from medunifier.evaluation import classifier
from medunifier.evaluation.classifier import Classifier, QueryEncoder, cross_entropy, fit_probe, probabilities
from medunifier.huggingface.modeling_medunifier import MedUnifierConfig, MedUnifierModel
from medunifier.training.checkpoints import Checkpoints
from medunifier.training.loop import Trainer
from tests.support.small_training import Silent, recipe


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = MedUnifierConfig(vision_width=8, vision_tokens=5, width=16, layers=2, heads=2, vocab_size=20)
    config.update({"projection": 8, "codebook_size": 8, "code_width": 8, "decoder_channels": [8, 8, 8, 8]})
    return MedUnifierModel(config).eval()


def test_the_encoder_is_the_uni_modal_pass(model):
    features = torch.randn(3, 5, 8)
    with torch.no_grad():
        assert torch.equal(QueryEncoder(model)(features), model.encode_image(features)[0].mean(1))


def test_groups_hold_every_parameter_once_at_its_rate(model):
    net = Classifier(QueryEncoder(model), 3)
    groups = net.parameter_groups(3e-6, 3e-4, 0.05)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    for group in groups:
        is_head = any(group["params"][0] is p for p in net.head.parameters())
        assert group["rate_scale"] == pytest.approx(1.0 if is_head else 0.01)
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])


def test_the_authors_head_reads_all_queries_side_by_side_through_two_linear_layers(model):
    torch.manual_seed(0)
    features = torch.randn(3, 5, 8)
    net = Classifier(QueryEncoder(model), 2, "two_layers").eval()
    net.start_head("random", nn.Linear(1, 1))
    first, last = net.head
    with torch.no_grad():
        queries = model.encode_image(features)[0]  # (3, queries, 16)
        assert first.in_features == queries[0].numel() and first.out_features == 768
        by_hand = (queries.reshape(3, -1) @ first.weight.T + first.bias) @ last.weight.T + last.bias
        torch.testing.assert_close(net(features), by_hand, rtol=0, atol=1e-5)
    net.start_head("zero", nn.Linear(1, 1))
    assert not net(features).any()


def test_a_head_starts_as_it_is_told(model):
    torch.manual_seed(0)
    probe, features = nn.Linear(16, 3), torch.randn(2, 5, 8)
    for head in ("linear", "two_layers"):
        assert not Classifier(QueryEncoder(model), 3, head)(features).any(), head
    net = Classifier(QueryEncoder(model), 3)
    net.start_head("probe", probe)
    with torch.no_grad():
        torch.testing.assert_close(net(features), probe(QueryEncoder(model)(features)))
    net.start_head("random", probe)
    assert net.head.weight.std() > 0 and not torch.equal(net.head.weight, probe.weight)


def test_side_by_side_shares_the_weights_and_leaves_the_encoder_as_it_was(model):
    encoder = QueryEncoder(model)
    wide = encoder.side_by_side()
    assert {id(p) for p in wide.parameters()} == {id(p) for p in encoder.parameters()}
    features = torch.randn(2, 5, 8)
    assert encoder(features).shape == (2, 16) and wide(features).shape == (2, wide.width)


def test_decay_all_reaches_biases_and_norms(model):
    net = Classifier(QueryEncoder(model), 3, "two_layers")
    groups = net.parameter_groups(1e-5, 1e-5, 0.01, decay_all=True)
    assert {group["weight_decay"] for group in groups} == {0.01}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_probe_is_logistic_regression(classes, monkeypatch):
    monkeypatch.setattr(classifier, "PENALTIES", (0.7,))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    y = (x[:, 0] + rng.normal(size=60) > 0).astype(np.int64) + (classes == 3) * (x[:, 1] > 0.5)
    outputs = 1 if classes == 2 else 3
    layer = fit_probe(x, y, x, y, outputs)
    scaled = (x - x.mean(0)) / (x.std(0) + 1e-6)
    theirs = LogisticRegression(C=0.7, tol=1e-8, max_iter=1000).fit(scaled, y).predict_proba(scaled)
    with torch.no_grad():
        mine = probabilities(layer(torch.from_numpy(x)))
    assert mine.numpy() == pytest.approx(theirs, abs=1e-3)


def test_the_penalty_is_chosen_on_validation():
    """Noise alone: the strongest penalty generalises best."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 30)).astype(np.float32), np.arange(20) % 2
    held, held_y = rng.normal(size=(400, 30)).astype(np.float32), np.arange(400) % 2
    chosen = fit_probe(x, y, held, held_y, 1)
    assert chosen.weight.abs().max() < 0.1, "weak penalties reach weights above 1"


def test_losses_and_probabilities_by_hand():
    logits = torch.tensor([[0.0], [2.0]])
    assert probabilities(logits).sum(1).tolist() == pytest.approx([1, 1])
    p = 1 / (1 + np.exp(-2.0))
    assert cross_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx(
        (np.log(2) - np.log(p)) / 2, abs=1e-6
    )
    assert cross_entropy(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])).item() == pytest.approx(np.log(3))


@pytest.mark.usefixtures("any_precision")
@pytest.mark.parametrize("outputs", [1, 3])
def test_after_fine_tuning_in_bf16_scores_are_those_of_the_same_weights_loaded_again(
    model, outputs, tmp_path
):
    """Validation during the training, too: float32, as the linear probe beside it."""
    torch.manual_seed(0)
    images, target = torch.randn(12, 5, 8), torch.arange(12) % max(outputs, 2)
    net, trained_in = Classifier(QueryEncoder(copy.deepcopy(model)), outputs), set()

    def loss(net, batch, _):
        logits = net(batch["images"])
        trained_in.add(logits.dtype)
        return cross_entropy(logits, batch["target"]), {}

    def validate(net):
        with torch.no_grad():
            return {"loss": cross_entropy(net(images), target).item()}

    history = Trainer(
        net,
        recipe(precision="bf16"),
        items=12,
        load=lambda rows: {"images": images[rows], "target": target[rows]},
        loss=loss,
        validate=validate,
        tracker=Silent(),
        checkpoints=Checkpoints(tmp_path),
        groups=net.parameter_groups(0.01, 0.01, 0.05),
    ).run()
    again = Classifier(QueryEncoder(copy.deepcopy(model)), outputs)
    again.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(net.eval()(images), again.eval()(images))
    assert history.rows[-1]["loss"] == validate(again)["loss"]
    assert trained_in == {torch.bfloat16} and not torch.equal(
        net.head.weight, torch.zeros_like(net.head.weight)
    )


def test_the_probe_of_many_labels_is_one_logistic_regression_a_label(monkeypatch):
    monkeypatch.setattr(classifier, "PENALTIES", (0.7,))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 5)).astype(np.float32)
    y = (x[:, :3] + rng.normal(size=(80, 3)) > 0).astype(np.int64)
    y[rng.random((80, 3)) < 0.3] = -1
    layer = fit_probe(x, y, x, y, 3)
    scaled = (x - x.mean(0)) / (x.std(0) + 1e-6)
    with torch.no_grad():
        mine = probabilities(layer(torch.from_numpy(x)), many_labels=True).numpy()
    for i in range(3):
        known = y[:, i] >= 0
        theirs = LogisticRegression(C=0.7, tol=1e-8, max_iter=1000).fit(scaled[known], y[known, i])
        assert mine[:, i] == pytest.approx(theirs.predict_proba(scaled)[:, 1], abs=1e-3)


def test_ignored_labels_have_no_loss_and_no_gradient():
    logits = torch.tensor([[0.0, 3.0], [-2.0, 50.0]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([[1, -1], [0, -1]]))
    assert loss.item() == pytest.approx((np.log(2) + np.log(1 + np.exp(-2))) / 2)
    loss.backward()
    assert logits.grad is not None and not logits.grad[:, 1].any() and logits.grad[:, 0].all()
