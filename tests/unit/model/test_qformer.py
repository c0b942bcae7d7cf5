"""The three masks' passes against a plain mask-based forward, and against transformers' BLIP-2 Q-Former."""

import math
from collections import Counter

import pytest
import torch
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from medunifier.model.attention import Memory
from medunifier.model.packing import Packing
from medunifier.model.qformer import QFormer
from medunifier.runtime.errors import InputError
from tests.support import qformer_oracle as oracle

CLOSE = {"rtol": 0, "atol": 1e-5}


def random_case(seed: int):
    torch.manual_seed(seed)

    def r(low, high):
        return int(torch.randint(low, high + 1, ()))

    heads = r(1, 4)
    qformer = QFormer(
        width=8 * heads,
        layers=r(1, 4),
        heads=heads,
        queries=r(1, 7),
        vision_width=r(3, 20),
        vocab_size=50,
        max_positions=16,
        cross_attention_every=r(1, 3),
    )
    for p in qformer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    batch, length = r(1, 4), r(2, 12)
    features = torch.randn(
        batch, r(1, 9), qformer.blocks[0].cross_attention.key_value.in_features, requires_grad=True
    )
    ids = torch.randint(0, 50, (batch, length))
    lengths = torch.randint(1, length + 1, (batch,))
    mask = (torch.arange(length) < lengths[:, None]).long()
    return qformer.eval(), features, ids, mask


def gradients(qformer, features, out, weights):
    wanted = dict(qformer.named_parameters()) | {"image tokens": features}
    found = torch.autograd.grad((out * weights).sum(), list(wanted.values()), allow_unused=True)
    return {name: g for name, g in zip(wanted, found, strict=True) if g is not None}


def compare(qformer, features, fast, slow):
    """Outputs, and the gradients of the same weighted sum for all parameters and the image tokens."""
    torch.testing.assert_close(fast, slow, **CLOSE)
    weights = torch.randn_like(slow) / slow.numel()
    one, other = (gradients(qformer, features, out, weights) for out in (fast, slow))
    for name in one.keys() | other.keys():
        nothing = torch.zeros(())
        torch.testing.assert_close(
            *torch.broadcast_tensors(one.get(name, nothing), other.get(name, nothing)), **CLOSE, msg=name
        )


@pytest.mark.parametrize("seed", range(8))
def test_uni_modal_queries(seed):
    qformer, features, ids, mask = random_case(seed)
    fast, _ = qformer.encode_queries(qformer.read_image(features))
    n = fast.shape[1]
    compare(qformer, features, fast, oracle.forward(qformer, features, ids, mask, "uni-modal")[:, :n])


def positions(rows: int, columns: int, width: int) -> torch.Tensor:
    """Sines and cosines of row and column, place by place, in as many channels as make whole fours; then zeros."""
    found = torch.zeros(rows * columns, width)
    half = width // 4 * 2
    for place in range(rows * columns):
        for channel in range(2 * half):
            where = divmod(place, columns)[channel >= half]
            angle = where * 10_000 ** (-2 * (channel % half // 2) / half)
            found[place, channel] = math.cos(angle) if channel % 2 else math.sin(angle)
    return found


def small(vision_width: int, places: tuple[int, int] | None) -> QFormer:
    sizes = {"width": 16, "layers": 2, "heads": 2, "queries": 3, "vocab_size": 9, "max_positions": 4}
    return QFormer(**sizes, vision_width=vision_width, places=places).eval()


@pytest.mark.parametrize("width", [3, 8, 18])
def test_places_are_added_to_the_image_tokens_but_not_to_the_first(width):
    torch.manual_seed(0)
    with_places = small(width, (2, 5))
    without = small(width, None)
    without.load_state_dict(with_places.state_dict())
    features = torch.randn(2, 11, width)
    placed = features + torch.cat([torch.zeros(1, width), positions(2, 5, width)])
    for one, other in zip(with_places.read_image(features), without.read_image(placed), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("tokens", [1, 2, 10, 12])
def test_with_places_other_numbers_of_image_tokens_are_refused(tokens):
    with pytest.raises(InputError, match=rf"image features of {tokens} tokens; the model reads 1 \+ 2 x 5"):
        small(12, (2, 5)).read_image(torch.randn(1, tokens, 12))


def test_only_with_places_does_the_order_of_the_image_tokens_matter():
    torch.manual_seed(0)
    features = torch.randn(1, 11, 12)
    moved = features[:, [0, *torch.randperm(10).add(1).tolist()]]
    for places, same in ((None, True), ((2, 5), False)):
        qformer = small(12, places)
        one, other = (qformer.encode_queries(qformer.read_image(x))[0] for x in (features, moved))
        assert torch.allclose(one, other, **CLOSE) == same


@pytest.mark.parametrize("seed", range(8))
def test_uni_modal_text(seed):
    qformer, features, ids, mask = random_case(seed)
    n = qformer.query_tokens.shape[1]
    slow = oracle.forward(qformer, features, ids, mask, "uni-modal")[:, n]
    compare(qformer, features, qformer.encode_text(ids, mask), slow)


@pytest.mark.parametrize("seed", range(8))
def test_bi_directional(seed):
    qformer, features, ids, mask = random_case(seed)
    n = qformer.query_tokens.shape[1]
    slow = oracle.forward(qformer, features, ids, mask, "bi-directional")[:, :n]
    compare(qformer, features, qformer.fuse(qformer.read_image(features), ids, mask), slow)


@pytest.mark.parametrize("seed", range(8))
def test_causal_shares_the_keys_of_the_uni_modal_queries(seed):
    qformer, features, ids, mask = random_case(seed)
    n = qformer.query_tokens.shape[1]
    _, earlier = qformer.encode_queries(qformer.read_image(features))
    fast = qformer.decode_text(ids, earlier)
    slow = oracle.forward(qformer, features, ids, mask, "multi-modal causal")[:, n:]
    real = mask[..., None].bool()
    compare(qformer, features, fast * real, slow * real)


@pytest.mark.parametrize("seed", range(8))
def test_queries_text_and_words_in_one_pass(seed):
    qformer, features, ids, mask = random_case(seed)
    n, real = qformer.query_tokens.shape[1], mask.bool()
    other = ids.flip(1)  # the words of the causal mask are not those of the uni-modal one
    found = qformer.encode(qformer.read_image(features), (ids, mask), (other, Packing.of(mask)))
    uni_modal = oracle.forward(qformer, features, ids, mask, "uni-modal")
    causal = oracle.forward(qformer, features, other, mask, "multi-modal causal")
    fast = [found.queries.flatten(0, 1), found.text, found.words]
    slow = [uni_modal[:, :n].flatten(0, 1), uni_modal[:, n], causal[:, n:][real]]
    compare(qformer, features, torch.cat(fast), torch.cat(slow))
    alone = qformer.encode_queries(qformer.read_image(features))[1]
    for own, other in zip(found.keys_values, alone, strict=True):
        torch.testing.assert_close(own, other, **CLOSE)


def test_one_pass_multiplies_by_each_weight_once():
    qformer, features, ids, mask = random_case(0)
    image, called = qformer.read_image(features), Counter()
    for name, module in qformer.blocks.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith(".key_value"):  # that is `read_image`'s
            module.register_forward_hook(lambda *_, name=name: called.update([name]))
    qformer.encode(image, (ids, mask), (ids, Packing.of(mask)))
    cross = sum(block.cross_attention is not None for block in qformer.blocks)
    assert set(called.values()) == {1}
    assert len(called) == 6 * len(qformer.blocks) + 2 * cross


@pytest.mark.parametrize("seed", range(6))
def test_pairs_that_share_images_and_texts(seed):
    qformer, features, ids, mask = random_case(seed)
    n, others = len(ids), features.flip(0) + 1
    texts = torch.randint(0, n, (3 * n,))
    image, other = qformer.read_image(features), qformer.read_image(others)
    fast = qformer.fuse_pairs([(image, 2), (other, 1)], ids, mask, texts)
    met = torch.cat([features, features, others])
    slow = oracle.forward(qformer, met, ids[texts], mask[texts], "bi-directional")
    compare(qformer, features, fast, slow[:, : fast.shape[1]])


@pytest.mark.parametrize("seed", range(4))
def test_causal_rows_of_real_tokens_alone(seed):
    qformer, features, ids, mask = random_case(seed)
    n, real = qformer.query_tokens.shape[1], mask.bool()
    _, earlier = qformer.encode_queries(qformer.read_image(features))
    fast = qformer.decode_text(ids, earlier, packing=Packing.of(mask))
    slow = oracle.forward(qformer, features, ids, mask, "multi-modal causal")[:, n:]
    compare(qformer, features, fast, slow[real])


def test_packing_there_and_back_and_its_gradients():
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    packing = Packing.of(mask)
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    rows = packing.pack(x)
    assert torch.equal(rows, x[mask.bool()])
    assert torch.equal(packing.unpack(rows)[mask.bool()], rows)  # padding positions are arbitrary
    assert torch.autograd.gradcheck(lambda x: packing.unpack(packing.pack(x).sin())[mask.bool()], x)
    poisoned = (
        torch.where(mask.bool()[..., None], 1.0, torch.nan).double().expand(3, 4, 2)
    )  # nor does its gradient
    (gradient,) = torch.autograd.grad(packing.unpack(rows), rows, poisoned)
    assert torch.equal(gradient, torch.ones_like(rows))
    joint = packing.after_queries(2)
    whole = torch.cat([torch.ones(3, 2), mask], 1).bool()
    grid = torch.arange(18.0).view(3, 6, 1)
    assert joint.pack(grid)[:6, 0].tolist() == grid[:, :2].flatten().tolist()
    assert joint.pack(grid)[6:, 0].tolist() == grid[:, 2:][mask.bool()].flatten().tolist()
    assert torch.equal(joint.unpack(joint.pack(grid))[whole], grid[whole])


@pytest.mark.parametrize("seed", range(4))
def test_decoding_token_by_token_equals_decoding_at_once(seed):
    qformer, features, ids, _ = random_case(seed)
    _, earlier = qformer.encode_queries(qformer.read_image(features))
    whole = qformer.decode_text(ids, earlier)
    memory = [Memory(kv, ids.shape[1]) for kv in earlier]
    with torch.no_grad():
        steps = [qformer.decode_text(ids[:, i : i + 1], memory) for i in range(ids.shape[1])]
    torch.testing.assert_close(torch.cat(steps, 1), whole, **CLOSE)


def blip2_weights(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our weights, embeddings left out, under their names in transformers' Q-Former."""
    found = {}
    for name, weight in ours.items():
        for joined in ("query_key_value", "key_value"):
            if f".{joined}." in name:
                parts = [f".{part}." for part in joined.split("_")]
                names = [blip2_name(name.replace(f".{joined}.", part)) for part in parts]
                found |= dict(zip(names, weight.chunk(len(parts)), strict=True))
                break
        else:
            if name not in ("query_tokens", "word_embeddings.weight", "position_embeddings.weight"):
                found[blip2_name(name)] = weight
    return found


def blip2_name(ours: str) -> str:
    """Our parameter name in transformers' Q-Former."""
    for own, theirs in {
        "feed_forward_queries.up": "intermediate_query.dense",
        "feed_forward_queries.down": "output_query.dense",
        "feed_forward_queries.norm": "output_query.LayerNorm",
        "feed_forward_text.up": "intermediate.dense",
        "feed_forward_text.down": "output.dense",
        "feed_forward_text.norm": "output.LayerNorm",
        "cross_attention.": "crossattention.",
        "blocks.": "encoder.layer.",
    }.items():
        ours = ours.replace(own, theirs)
    for name in ("attention.", "crossattention."):
        for kind in ("query", "key", "value"):
            ours = ours.replace(f".{name}{kind}", f".{name}attention.{kind}")
    ours = ours.replace("attention.out.", "attention.output.dense.")
    ours = ours.replace("attention.norm.", "attention.output.LayerNorm.")
    return "layernorm." + ours.removeprefix("norm.") if ours.startswith("norm.") else ours


@pytest.mark.parametrize("every", [1, 2])
def test_equals_blip2_of_transformers(every):
    torch.manual_seed(every)
    ours = QFormer(
        width=24,
        layers=4,
        heads=3,
        queries=5,
        vision_width=10,
        vocab_size=40,
        max_positions=12,
        cross_attention_every=every,
    ).eval()
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.3)
    theirs = Blip2QFormerModel(
        Blip2QFormerConfig(
            vocab_size=40,
            hidden_size=24,
            num_hidden_layers=4,
            num_attention_heads=3,
            intermediate_size=96,
            max_position_embeddings=12,
            cross_attention_frequency=every,
            encoder_hidden_size=10,
            use_qformer_text_input=True,
        )
    ).eval()
    theirs.load_state_dict(blip2_weights(ours.state_dict()), strict=True)

    features, ids = torch.randn(3, 7, 10), torch.randint(0, 40, (3, 6))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 2 + [0] * 4])
    image = ours.read_image(features)
    query_only = theirs(query_embeds=ours.query_tokens.expand(3, -1, -1), encoder_hidden_states=features)
    torch.testing.assert_close(ours.encode_queries(image)[0], query_only.last_hidden_state, **CLOSE)

    words = ours.word_embeddings(ids) + ours.position_embeddings(torch.arange(6))
    both = theirs(
        query_embeds=torch.cat([ours.query_tokens.expand(3, -1, -1), words], 1),
        query_length=5,
        attention_mask=torch.cat([torch.ones(3, 5), mask], 1),
        encoder_hidden_states=features,
    )
    torch.testing.assert_close(ours.fuse(image, ids, mask), both.last_hidden_state[:, :5], **CLOSE)
