"""The forms in which BERT checkpoints for radiology come: small random folders of each kind.

CXR-BERT-general is a BertForMaskedLM; CXR-BERT-specialized and BioViL-T's add `auto_map`, a tokenizer class of their own and
`cls_projection_head`; BiomedBERT and Bio_ClinicalBERT come as vocab.txt with pytorch_model.bin or old names of LayerNorm.
"""

import io
import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM, BertModel

from medunifier.data.tokenizer import DECODE_TOKEN, load_tokenizer, tokenize
from medunifier.model.qformer import QFormer
from medunifier.model.text import TextHead
from medunifier.pretraining.bert_checkpoint import load_bert
from medunifier.runtime.errors import InputError
from tests.support.encoder_folders import scramble

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "no",
    "effusion",
    "##s",
    "heart",
    "en",
    "##larged",
    "the",
    ".",
]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
TEXTS = ["No effusions.", "the heart enlarged"]


def save(folder, weights, *, file="model.safetensors", tokenizer=None, **config):
    """Write a checkpoint folder with vocab.txt."""
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **SIZES, **config}))
    weights = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
    if file.endswith("bin"):
        torch.save(weights, folder / file)
    else:
        save_file(weights, folder / file)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    if tokenizer is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def masked_lm(tie=True):
    torch.manual_seed(0)
    model = scramble(BertForMaskedLM(BertConfig(**SIZES, tie_word_embeddings=tie)))
    return model


def loaded(folder):
    """Q-Former, head and report of a folder."""
    torch.manual_seed(1)
    qformer = QFormer(
        width=16, layers=2, heads=2, queries=4, vision_width=10, vocab_size=len(WORDS) + 1, max_positions=20
    )
    head = TextHead(16, len(WORDS) + 1)
    return qformer.eval(), head.eval(), load_bert(qformer, head, str(folder))


def check_outputs(folder, bert):
    """The text side gives what BERT gives for the texts by the folder's own tokenizer."""
    qformer, _, report = loaded(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.convert_tokens_to_ids(DECODE_TOKEN) == len(WORDS) and len(tokenizer) == len(WORDS) + 1
    ids, mask = tokenize(tokenizer, TEXTS, 20)
    assert ids.tolist() == [[2, 5, 6, 7, 12, 3], [2, 11, 8, 9, 10, 3]]
    with torch.no_grad():
        theirs = bert(ids, attention_mask=mask).last_hidden_state[:, 0]
        torch.testing.assert_close(qformer.encode_text(ids, mask), theirs, rtol=0, atol=1e-5)
    return report


def test_cxr_bert_general_a_masked_language_model(tmp_path):
    model = masked_lm()
    save(tmp_path, model.state_dict(), tokenizer={"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    report = check_outputs(tmp_path, model.bert)
    assert report.unused == []  # the decoder is the word embedding, as ours
    qformer, head, _ = loaded(tmp_path)
    hidden = torch.randn(3, 16)
    with torch.no_grad():
        ours = head(hidden, qformer.word_embeddings.weight)[:, : len(WORDS)]
        torch.testing.assert_close(ours, model.cls(hidden), rtol=0, atol=1e-5)


OWN_CODE = {
    "model_type": "cxr-bert",
    "architectures": ["CXRBertModel"],
    "auto_map": {
        "AutoConfig": "configuration_cxrbert.CXRBertConfig",
        "AutoModel": "modeling_cxrbert.CXRBertModel",
    },
    "projection_size": 8,
}
OWN_TOKENIZER = {
    "tokenizer_class": "CXRBertTokenizer",
    "auto_map": {"AutoTokenizer": ["configuration_cxrbert.CXRBertTokenizer", None]},
    "do_lower_case": True,
}


@pytest.mark.parametrize("with_map", [True, False])
def test_cxr_bert_specialized_is_read_as_the_bert_that_it_holds(tmp_path, monkeypatch, with_map):
    model = masked_lm()
    head = {
        f"cls_projection_head.{n}.weight": torch.randn(8, 16) for n in ("dense_to_hidden", "dense_to_output")
    }
    tokenizer = OWN_TOKENIZER if with_map else {k: v for k, v in OWN_TOKENIZER.items() if k != "auto_map"}
    save(tmp_path, model.state_dict() | head, file="pytorch_model.bin", tokenizer=tokenizer, **OWN_CODE)
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for name in ("configuration_cxrbert.py", "modeling_cxrbert.py"):
        (tmp_path / name).write_text(code)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    report = check_outputs(tmp_path, model.bert)
    assert not (tmp_path / "ran").exists()
    assert report.unused == sorted(head)
    saved = tmp_path / "saved"  # as train_tokenizer leaves it, and every model that is trained with it
    load_tokenizer(tmp_path).save_pretrained(saved)
    assert "auto_map" not in (saved / "tokenizer_config.json").read_text()
    again = load_tokenizer(saved)
    assert tokenize(again, TEXTS, 20)[0].tolist() == tokenize(load_tokenizer(tmp_path), TEXTS, 20)[0].tolist()


def test_biomed_bert_a_pickle_and_a_vocabulary_alone(tmp_path):
    model = masked_lm()
    save(tmp_path, model.state_dict(), file="pytorch_model.bin")
    check_outputs(tmp_path, model.bert)


def test_clinical_bert_with_tensorflow_s_names_and_heads(tmp_path):
    model = masked_lm()
    weights = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in model.state_dict().items()
    }
    weights |= {
        "cls.seq_relationship.weight": torch.randn(2, 16),
        "cls.seq_relationship.bias": torch.randn(2),
    }
    save(tmp_path, weights, file="pytorch_model.bin")
    report = check_outputs(tmp_path, model.bert)
    assert report.unused == ["cls.seq_relationship.bias", "cls.seq_relationship.weight"]


def test_a_bert_without_a_head_leaves_the_head_at_its_start_and_says_so(tmp_path):
    torch.manual_seed(0)
    model = scramble(BertModel(BertConfig(**SIZES)))
    save(tmp_path, model.state_dict())
    report = check_outputs(tmp_path, model)
    assert {name for name in report.missing if name.startswith("text_head")} == {
        "text_head.bias", "text_head.dense.bias", "text_head.dense.weight", "text_head.norm.bias", "text_head.norm.weight",
    }  # fmt: skip
    assert report.unused == ["pooler.dense.bias", "pooler.dense.weight"]


def test_an_untied_head_is_named(tmp_path):
    model = masked_lm()
    weights = model.state_dict() | {"cls.predictions.decoder.weight": torch.randn(len(WORDS), 16)}
    save(tmp_path, weights)
    assert check_outputs(tmp_path, model.bert).unused == ["cls.predictions.decoder.weight"]


def test_the_head_s_bias_under_its_other_name(tmp_path):
    model = masked_lm()
    weights = dict(model.state_dict())
    weights["cls.predictions.decoder.bias"] = weights.pop("cls.predictions.bias")
    weights.pop("cls.predictions.decoder.weight", None)
    save(tmp_path, weights)
    _, head, report = loaded(tmp_path)
    assert torch.equal(head.bias[: len(WORDS)], weights["cls.predictions.decoder.bias"])
    assert "text_head.bias" not in report.missing


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"[]", "holds a JSON list; expected an object"),
        ("config.json", b"\xff", "cannot be read as JSON"),
        ("model.safetensors", b"no weights", "cannot be read as a file of weights"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path, file, content, message):
    save(tmp_path, masked_lm().state_dict())
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        loaded(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [{"num_attention_heads": 0}, {"num_hidden_layers": "two"}, {"position_embedding_type": "relative_key"}],
)
def test_a_config_of_another_network_is_refused_in_one_line(tmp_path, changes):
    save(tmp_path, masked_lm().state_dict(), **changes)
    with pytest.raises(InputError, match=next(iter(changes))) as refused:
        loaded(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_weight_that_is_not_finite_is_refused(tmp_path):
    model = masked_lm()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[3, 2] = float("inf")
    save(tmp_path, model.state_dict())
    with pytest.raises(
        InputError, match=r"word_embeddings.weight has 1 of 208 values that are NaN or infinite"
    ):
        loaded(tmp_path)


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    save(tmp_path, {})
    (tmp_path / "model.safetensors").unlink()
    torch.save({"bert.weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"cannot be read as a file of weights .* nothing in it was run"
    ) as refused:
        loaded(tmp_path)
    assert not (tmp_path / "ran").exists() and "\n" not in str(refused.value)
