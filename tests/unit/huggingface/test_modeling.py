"""The model as a whole."""

import json

import numpy as np
import pytest
import torch

from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from medunifier.model import attention, network, qformer
from medunifier.model import text as text_module
from medunifier.model.precision import for_residual_and_products
from medunifier.pretraining import losses as objectives
from tests.unit.model.test_distributed import case


def test_vision_norm_starts_as_a_standardisation():
    model, batch = case()
    features = batch["features"] * torch.logspace(-2, 2, 10) + torch.linspace(-5, 5, 10)
    model.standardise_vision(features)
    tokens = model.vision_norm(features).flatten(0, 1)
    torch.testing.assert_close(tokens.mean(0), torch.zeros(10), rtol=0, atol=1e-3)
    torch.testing.assert_close(tokens.std(0), torch.ones(10), rtol=0, atol=1e-3)


@pytest.mark.parametrize("position", ["learnt", "sinusoidal"])
def test_adapters_start_with_unit_gain_whatever_their_positions(position):
    model, _ = case(adapter_position=position, code_width=64, initializer_range=1.0)
    for adapter in (model.image_generator.top_adapter, model.image_generator.bottom_adapter):
        for layer in (adapter.map[0], adapter.map[2]):
            assert layer.weight.std().item() == pytest.approx(layer.in_features**-0.5, rel=0.1)


def test_greedy_reports_equal_the_argmax_without_a_cache():
    model, batch = case()
    model.eval()
    c = model.config
    with torch.no_grad():
        model.text_head.bias.normal_(std=2)
        found = model.generate(batch["features"])
        _, earlier = model.qformer.encode_queries(model.read_image(batch["features"]))
        for row in range(len(found)):
            own = [kv.take(torch.tensor([row])) for kv in earlier]
            words = [c.decode_token_id]
            while len(words) <= c.max_text_tokens and words[-1] != c.sep_token_id:
                x = model.qformer.decode_text(torch.tensor([words]), own)
                logits = model.text_head(x[0, -1], model.qformer.word_embeddings.weight)
                logits[[c.pad_token_id, c.cls_token_id, c.decode_token_id]] = -torch.inf
                words.append(int(logits.argmax()))
                if len(words) == c.max_text_tokens + 1:
                    break
            expected = words[1:]
            assert found[row, : len(expected)].tolist() == expected
            assert (found[row, len(expected) :] == c.pad_token_id).all()


def test_codes_and_reconstruction_agree():
    model, batch = case()
    model.eval()
    inputs = batch["features"], batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        images = model.decode_codes(*model.encode_codes(*inputs))
        torch.testing.assert_close(images, model.reconstruct(*inputs), rtol=0, atol=1e-5)


def test_total_is_equation_24_over_equation_23_with_its_weights():
    model, batch = case(codebook_weight=0.5, commitment=0.3)
    model.eval()
    recorded = []  # latents before lookup, top and bottom
    generator = model.image_generator
    for quantizer in (generator.top_quantizer, generator.bottom_quantizer):
        quantizer.register_forward_hook(lambda quantizer, z, _: recorded.append((z[0], quantizer.codebook)))
    weights = {"itc": 0.7, "itm": 0.0, "itg": 1.3, "tig": 0.8}
    with torch.no_grad():
        losses = model(**batch, weights=weights)
        images = model.generate_image(batch["features"], batch["input_ids"], batch["attention_mask"]).images
    distance = 0.0
    for z, codebook in recorded[:2]:
        flat, codes = z.permute(0, 2, 3, 1).flatten(0, 2).double().numpy(), codebook.double().detach().numpy()
        distance += np.mean([((codes - row) ** 2).sum(1).min() for row in flat]) / z.shape[1]
    error = ((images.double().numpy() - batch["images"].double().numpy()) ** 2).mean()
    tig = error + 0.5 * distance + 0.3 * distance
    np.testing.assert_allclose(losses.parts["tig"].item(), tig, rtol=1e-5)
    expected = 0.7 * losses.parts["itc"].item() + 1.3 * losses.parts["itg"].item() + 0.8 * tig
    np.testing.assert_allclose(losses.total.item(), expected, rtol=1e-5)


def spread_case():
    """`case` with weights and images that separate pairs and words well, in evaluation mode."""
    model, batch = case()
    for part in (model.qformer, model.query_projection, model.text_projection, model.match_head):
        for weight in (p for p in part.parameters() if p.ndim > 1):
            torch.nn.init.normal_(weight)
    batch["features"] += 3 * torch.randn(6, 1, 10)
    return model.eval(), batch


def best_cosines(model, batch):
    """Cosine of image i (row) with text j, the best over the queries, by NumPy (6, 6)."""
    with torch.no_grad():
        queries = model.encode_image(batch["features"])[1].double().numpy()
        texts = model.encode_text(batch["input_ids"], batch["attention_mask"])[1].double().numpy()
    np.testing.assert_allclose(np.linalg.norm(texts, axis=-1), 1, rtol=1e-5)
    return np.array([[(q @ text).max() for text in texts] for q in queries])


def slow_contrastive(cosines, temperature):
    """Eq. 10-12, one pair after the other."""
    e = np.exp(cosines / temperature)
    terms = [-np.log(e[k, k] / e[k].sum()) - np.log(e[k, k] / e[:, k].sum()) for k in range(len(e))]
    return np.mean(terms) / 2


def test_itc_of_a_step_equals_a_slow_version_and_moves_the_temperature():
    model, batch = spread_case()
    losses = model(**batch, weights={"itc": 1.0})
    losses.total.backward()
    cosines, log_tau = best_cosines(model, batch), model.log_temperature.item()
    np.testing.assert_allclose(
        losses.parts["itc"].item(), slow_contrastive(cosines, np.exp(log_tau)), rtol=1e-5
    )
    around = [slow_contrastive(cosines, np.exp(log_tau + h)) for h in (-1e-4, 1e-4)]
    slope = (around[1] - around[0]) / 2e-4
    assert abs(slope) > 0.01
    np.testing.assert_allclose(model.log_temperature.grad.item(), slope, rtol=1e-3)


def test_itm_of_a_step_equals_a_slow_version():
    """Own pairs are matches; each image with its hard text and each text with its hard image are none."""
    model, batch = spread_case()
    features, ids, mask = (batch[name] for name in ("features", "input_ids", "attention_mask"))
    losses = model(**batch, weights={"itm": 1.0}, generator=torch.Generator().manual_seed(5))
    cosines = torch.from_numpy(best_cosines(model, batch)).float()
    generator, own = torch.Generator().manual_seed(5), torch.eye(6, dtype=torch.bool)
    images = objectives.hard_negatives(cosines.T, model.temperature, own, generator).tolist()
    texts = objectives.hard_negatives(cosines, model.temperature, own, generator).tolist()
    assert (
        images != texts and cosines.std() > 3 * model.temperature
    )  # otherwise the sampling would be nearly uniform
    pairs = [(i, i, 1) for i in range(6)]
    pairs += [(i, texts[i], 0) for i in range(6)] + [(images[i], i, 0) for i in range(6)]
    terms, right = [], []
    for image, text, label in pairs:
        with torch.no_grad():
            logits = model.match(features[[image]], ids[[text]], mask[[text]])[0].double().numpy()
        terms.append(np.log(np.exp(logits).sum()) - logits[label])
        right.append(logits.argmax() == label)
    np.testing.assert_allclose(losses.parts["itm"].item(), np.mean(terms), rtol=1e-5)
    np.testing.assert_allclose(losses.parts["itm_accuracy"].item(), np.mean(right), rtol=1e-6)


def test_itg_of_a_step_equals_a_slow_version():
    """Each word of a report, [SEP] included, from [DEC], the words before it and the image, one call for each."""
    model, batch = spread_case()
    losses = model(**batch, weights={"itg": 1.0})
    terms = []
    for features, ids, mask in zip(
        batch["features"], batch["input_ids"], batch["attention_mask"], strict=True
    ):
        words = ids[mask.bool()].tolist()[1:]  # after [CLS]
        for place, word in enumerate(words):
            before = torch.tensor([[model.config.decode_token_id, *words[:place]]])
            with torch.no_grad():
                _, recorded = model.qformer.encode_queries(model.read_image(features[None]))
                x = model.qformer.decode_text(before, recorded)[0, -1]
                logits = model.text_head(x, model.qformer.word_embeddings.weight).double().numpy()
            terms.append(np.log(np.exp(logits).sum()) - logits[word])
    np.testing.assert_allclose(losses.parts["itg"].item(), np.mean(terms), rtol=1e-5)


@pytest.mark.parametrize(
    "off", [{"itm"}, {"itg"}, {"tig"}, {"itm", "itg", "tig"}], ids=lambda off: "-".join(sorted(off))
)
def test_an_objective_that_is_off_is_not_computed(off):
    """Without its head the step is the same; and no gradient reaches it."""

    def step(bare):
        model, batch = case()
        heads = {"itm": "match_head", "itg": "text_head", "tig": "image_generator"}
        if "tig" in off:
            del batch["images"]
        if bare:
            for name in off:
                setattr(model, heads[name], None)
        weights = {name: float(name not in off) for name in ("itc", *heads)}
        losses = model(**batch, weights=weights, generator=torch.Generator().manual_seed(1))
        losses.total.backward()
        unused = tuple(heads[name] for name in off)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert not [name for name in gradients if name.startswith(unused)]
        return losses.parts, gradients

    (parts, gradients), (bare_parts, bare_gradients) = step(False), step(True)
    assert parts == bare_parts and not off & parts.keys()
    assert gradients.keys() == bare_gradients.keys()
    assert all(torch.equal(gradients[name], bare_gradients[name]) for name in gradients)


def test_a_batch_of_one_has_no_negatives():
    model, batch = case()
    one = {name: value[:1] for name, value in batch.items()}
    losses = model(**one, generator=torch.Generator())
    losses.total.backward()
    assert torch.isfinite(losses.total) and losses.parts["itc"] == 0
    logits = model.match(one["features"], one["input_ids"], one["attention_mask"])[0]
    torch.testing.assert_close(losses.parts["itm"], -logits.log_softmax(0)[1].detach(), rtol=0, atol=1e-5)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_pairs_with_one_text_are_no_negatives_of_each_other():
    model, batch = case()
    same = {name: value[:1].repeat(3, *(1,) * (value.ndim - 1)) for name, value in batch.items()}
    losses = model(**same, weights={"itm": 1.0}, generator=torch.Generator())
    logits = model.match(*(batch[name][:1] for name in ("features", "input_ids", "attention_mask")))[0]
    no, yes = -logits.log_softmax(0).detach()
    torch.testing.assert_close(losses.parts["itm"], yes, rtol=0, atol=1e-5)
    model.config.equal_reports = "negatives"  # as in the authors' code: each has another as its negative
    losses = model(**same, weights={"itm": 1.0}, generator=torch.Generator())
    torch.testing.assert_close(losses.parts["itm"], (yes + 2 * no) / 3, rtol=0, atol=1e-5)


def test_a_model_of_patches_of_16_pixels_learns():
    model, batch = case(vision_tokens=197)
    losses = model(
        **batch | {"features": batch["features"][:, :197]}, generator=torch.Generator().manual_seed(0)
    )
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.image_generator.bottom_adapter.map[0].weight.grad.any()


def test_a_model_loaded_in_bfloat16_takes_features_of_float32(tmp_path):
    model, batch = case()
    model.eval().save_pretrained(tmp_path)
    half = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    features, words = batch["features"], (batch["input_ids"], batch["attention_mask"])
    with torch.no_grad():
        assert half.generate(features, num_beams=2, max_new_tokens=3).shape[0] == len(features)
        close = {"rtol": 0.1, "atol": 0.05}
        torch.testing.assert_close(
            half.match(features, *words).float(), model.match(features, *words), **close
        )
        torch.testing.assert_close(
            half.encode_image(features)[1].float(), model.encode_image(features)[1], **close
        )
        assert half.reconstruct(features, *words).shape == (6, 1, 224, 224)


def test_under_autocast_values_are_pytorchs_own(monkeypatch):
    model, batch = spread_case()  # its vocabulary is no multiple of 8, as BERT's with [DEC]
    parameters = dict(model.named_parameters())

    def step(half=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = model(**batch, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad(losses.total, parameters.values(), allow_unused=True)
        return losses.parts, torch.cat([g.flatten() for g in gradients if g is not None])

    _, exact = step(half=False)
    values, gradient = step()
    for module in (qformer, network, text_module):
        monkeypatch.setattr(module, "for_products", lambda x: x)
    monkeypatch.setattr(attention, "for_residual_and_products", lambda x: (x, x))
    plain_values, plain_gradient = step()
    for name, value in plain_values.items():
        torch.testing.assert_close(values[name], value, rtol=2e-3, atol=0)
    off, plain_off = (gradient - exact).norm(), (plain_gradient - exact).norm()
    assert 0 < off < 1.1 * plain_off


@pytest.mark.parametrize("half", [True, False])
def test_a_token_for_residual_and_products_gets_the_gradients_of_both(half):
    torch.manual_seed(0)
    start, weight, scale = torch.randn(5, 8), torch.randn(8, 8), torch.randn(5, 8)

    def gradient(both):
        x = start.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            residual, products = both(x)
            out = residual * scale + products @ weight
        return out, *torch.autograd.grad(out.sum(), x)

    ours = gradient(for_residual_and_products)
    plain = gradient(lambda x: (x, x.to(torch.bfloat16) if half else x))
    for one, other in zip(ours, plain, strict=True):
        assert torch.equal(one, other)


def test_a_folder_saved_before_a_choice_existed_loads_as_the_model_that_it_was(tmp_path):
    """Such a config.json lacks the keys of later choices; their defaults are the network of then."""
    later = ("decoder_kind", "adapter_residual", "adapter_position", "vision_position")
    model, batch = case()
    model.eval().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    assert set(later) <= set(saved)
    path.write_text(json.dumps({name: value for name, value in saved.items() if name not in later}))
    again = MedUnifierModel.from_pretrained(tmp_path).eval()
    inputs = batch["features"], batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        assert torch.equal(again.reconstruct(*inputs), model.reconstruct(*inputs))


@pytest.mark.parametrize("decoder", ["deconvolutional", "residual"])
def test_a_model_with_another_decoder_is_saved_and_loaded(tmp_path, decoder):
    choices = {"decoder_kind": decoder, "decoder_shortcut": False, "decoder_norm": "batch"}
    choices |= {"vision_position": "sinusoidal"}
    adapters = {"adapter": "rectified", "adapter_residual": "batch_norm", "adapter_position": "sinusoidal"}
    model, batch = case(**choices, **adapters)
    inputs = batch["features"], batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        model.train().generate_image(*inputs)  # gives the norms their statistics
    model.eval().save_pretrained(tmp_path)
    again = MedUnifierModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again.reconstruct(*inputs), model.reconstruct(*inputs))
    assert again.config.decoder_kind == decoder
