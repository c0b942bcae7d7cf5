"""The model as a whole."""

import torch

from tests.models.test_distributed import case


def test_vision_norm_starts_as_a_standardisation():
    model, batch = case()
    features = batch["features"] * torch.logspace(-2, 2, 10) + torch.linspace(-5, 5, 10)
    model.standardise_vision(features)
    tokens = model.vision_norm(features).flatten(0, 1)
    torch.testing.assert_close(tokens.mean(0), torch.zeros(10), rtol=0, atol=1e-3)
    torch.testing.assert_close(tokens.std(0), torch.ones(10), rtol=0, atol=1e-3)


def test_greedy_reports_equal_the_argmax_without_a_cache():
    model, batch = case()
    model.eval()
    c = model.config
    with torch.no_grad():
        model.text_head.bias.normal_(std=2)
        found = model.generate(batch["features"])
        _, seen = model.qformer.encode_queries(model.read_image(batch["features"]))
        for row in range(len(found)):
            own = [kv.take(torch.tensor([row])) for kv in seen]
            words = [c.decode_token_id]
            while len(words) <= c.max_text_tokens and words[-1] != c.sep_token_id:
                x, _ = model.qformer.decode_text(torch.tensor([words]), own)
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
        pictures = model.decode_codes(*model.encode_codes(*inputs))
        torch.testing.assert_close(pictures, model.reconstruct(*inputs), rtol=0, atol=1e-5)
