"""Choice of words: against transformers' own `generate`, against brute force, and with and without a cache."""

import itertools

import pytest
import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper
from transformers.modeling_outputs import CausalLMOutput

from medunifier.model.attention import Memory
from medunifier.model.report_decoding import Limits, beam_search, keep_likely
from tests.unit.model.test_distributed import case


class TransformersView(PreTrainedModel, GenerationMixin):
    """Our network as transformers knows language models: all words again at every step, no cache.

    Row i of a batch is about image i // beams.
    """

    config_class = PreTrainedConfig

    def __init__(self, model, features):
        c = model.config
        super().__init__(PreTrainedConfig(vocab_size=c.vocab_size, is_encoder_decoder=False))
        self.model = model
        self.image_count = len(features)
        self.image = model.read_image(features)
        self.never = [c.pad_token_id, c.cls_token_id, c.decode_token_id]

    def forward(self, input_ids, **_):
        rows = torch.arange(len(input_ids)) * self.image_count // len(input_ids)
        _, queries = self.model.qformer.encode_queries(
            [None if kv is None else kv[rows] for kv in self.image]
        )
        x = self.model.qformer.decode_text(input_ids, queries)
        logits = self.model.text_head(x, self.model.qformer.word_embeddings.weight)
        logits[..., self.never] = -torch.inf
        return CausalLMOutput(logits=logits)

    def prepare_inputs_for_generation(self, input_ids, **_):
        return {"input_ids": input_ids}


@pytest.fixture(params=[3, 7, 19, 37])
def model_and_features(request):
    """Random models that end their texts at different lengths, and images."""
    model, batch = case()
    torch.manual_seed(request.param)
    with torch.no_grad():
        for parameter in [*model.qformer.parameters(), *model.text_head.parameters()]:
            if parameter.ndim > 1:
                parameter.normal_(std=0.5)
        model.text_head.bias[model.config.sep_token_id] = 2.2
    return model.eval(), batch["features"]


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_words_are_those_that_transformers_finds(model_and_features, beams):
    model, features = model_and_features
    c = model.config
    found = model.generate(features, num_beams=beams)
    settings = GenerationConfig(
        num_beams=beams,
        do_sample=False,
        max_new_tokens=c.max_text_tokens,
        eos_token_id=c.sep_token_id,
        pad_token_id=c.pad_token_id,
        use_cache=False,
    )
    start = torch.full((len(features), 1), c.decode_token_id)
    theirs = TransformersView(model, features).generate(start, generation_config=settings)[:, 1:]
    after_end = (theirs == c.sep_token_id).cumsum(1).sub((theirs == c.sep_token_id).int()) > 0
    theirs = theirs.masked_fill(
        after_end, c.pad_token_id
    )  # its beam search takes pad id 0 for none and fills with the end
    assert torch.equal(found, theirs)
    lengths = (found != c.pad_token_id).sum(1)
    assert len(lengths.unique()) > 1  # the case is not a trivial one


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"do_sample": True, "temperature": 1.5, "top_p": 0.9}])
def test_the_cache_changes_no_word(model_and_features, how):
    model, features = model_and_features
    one, other = (
        model.generate(features, **how, generator=torch.Generator().manual_seed(5), use_cache=kept)
        for kept in (True, False)
    )
    assert torch.equal(one, other)


def test_beams_of_an_image_do_not_depend_on_the_others(model_and_features):
    model, features = model_and_features
    together = model.generate(features, num_beams=3)
    for row in range(len(features)):
        alone = model.generate(features[row : row + 1], num_beams=3)[0]
        assert torch.equal(together[row, : len(alone)], alone)
        assert (together[row, len(alone) :] == model.config.pad_token_id).all()


class Table:
    """A decoder with a fixed table of next-word logits (V, V), by the last word."""

    def __init__(self, logits):
        self.logits = logits

    def __call__(self, tokens):
        return self.logits[tokens[:, 0]]

    def reorder(self, rows):
        pass


@pytest.mark.parametrize("seed", range(3))
def test_enough_beams_find_the_best_of_all_texts(seed):
    torch.manual_seed(seed)
    words, longest, end, pad = 4, 3, 1, 0
    logits = torch.randn(words, words) * 2
    logits[:, pad] = -torch.inf
    chances = logits.log_softmax(-1)
    texts = {}
    for length in range(1, longest + 1):
        for text in itertools.product(range(1, words), repeat=length):
            whole = end not in text[:-1] and (text[-1] == end or length == longest)
            if whole:
                steps = zip((2, *text), text, strict=False)
                texts[text] = sum(float(chances[a, b]) for a, b in steps) / length
    best = max(texts, key=texts.get)
    found = beam_search(Table(logits), torch.tensor([[2]]), Limits(longest, end, pad), num_beams=64)
    assert tuple(found[0].tolist()) == best


def test_likely_words_are_those_of_transformers():
    torch.manual_seed(0)
    logits = torch.randn(50, 30) * 3
    ids = torch.zeros(50, 1, dtype=torch.long)
    torch.testing.assert_close(keep_likely(logits, top_k=7), TopKLogitsWarper(7)(ids, logits))
    torch.testing.assert_close(keep_likely(logits, top_p=0.8), TopPLogitsWarper(0.8)(ids, logits))
    both = TopPLogitsWarper(0.6)(ids, TopKLogitsWarper(5)(ids, logits / 0.7))
    torch.testing.assert_close(keep_likely(logits, 0.7, 5, 0.6), both)
    assert (keep_likely(logits, top_p=1e-9) > -torch.inf).sum(1).eq(1).all()  # the likeliest stays


def test_sampled_words_follow_their_probabilities():
    model, batch = case()
    model.eval()
    features = batch["features"][:1].expand(1000, -1, -1)
    _, queries = model.qformer.encode_queries(model.read_image(features[:1]))
    x = model.qformer.decode_text(torch.tensor([[model.config.decode_token_id]]), queries)
    logits = model.text_head(x[:, -1], model.qformer.word_embeddings.weight) * 1
    c = model.config
    logits[:, [c.pad_token_id, c.cls_token_id, c.decode_token_id]] = -torch.inf
    expected = keep_likely(logits, 0.05, top_k=6).softmax(-1)[0]
    generator = torch.Generator().manual_seed(0)
    how = {"do_sample": True, "temperature": 0.05, "top_k": 6, "max_new_tokens": 1}
    with torch.no_grad():
        sampled = model.generate(features, **how, generator=generator)[:, 0]
    shares = torch.bincount(sampled, minlength=c.vocab_size) / len(sampled)
    assert (expected > 0).sum() == 6
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.06)


def test_beams_are_not_sampled():
    model, batch = case()
    with pytest.raises(ValueError, match="either do_sample or num_beams"):
        model.generate(batch["features"], num_beams=2, do_sample=True)


@pytest.mark.parametrize("length", [0, -1])
def test_fewer_than_one_word_is_refused(length):
    model, batch = case()
    with pytest.raises(ValueError, match="at least 1"):
        model.generate(batch["features"], max_new_tokens=length)


def test_more_words_than_there_is_room_for_are_refused():
    model, batch = case()
    _, queries = model.qformer.encode_queries(model.read_image(batch["features"]))
    memory = [Memory(kv, 2) for kv in queries]
    with torch.no_grad():
        model.qformer.decode_text(batch["input_ids"][:, :2], memory)
        with pytest.raises(ValueError, match="no room for more than 2 words"):
            model.qformer.decode_text(batch["input_ids"][:, 2:3], memory)
