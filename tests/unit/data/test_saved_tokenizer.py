"""A saved tokenizer read without transformers: every result is that of transformers' own class."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import BertTokenizer

from medunifier.data.saved_tokenizer import SavedTokenizer
from medunifier.data.tokenizer import (
    decode,
    encode,
    encode_all,
    load_tokenizer,
    open_tokenizer,
    train_wordpiece,
)
from medunifier.runtime.errors import InputError

REPORTS = [
    "The heart is mildly enlarged. No effusion, no pneumothorax.",
    "Lungs are clear; it isn't edema.",
] * 4
TEXTS = [
    *REPORTS[:2],
    "",
    "   \n\t ",
    "\u200b\u00ad",
    "ÉDÈME du poumon !",
    "[DEC] heart [SEP] [MASK] clear",
    "漢字 and 😀 beside the heart",
    "pt's  lungs, they 're clear ? don 't !",
    "heart" * 60,
    "\ud7ff\ufffd\u0301e",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    train_wordpiece(REPORTS, 120).save_pretrained(path)
    return path


def test_ids_and_texts_are_those_of_transformers(folder):
    ours, theirs = open_tokenizer(folder), load_tokenizer(folder)
    assert isinstance(ours, SavedTokenizer) and not isinstance(theirs, SavedTokenizer)
    for role in ("cls", "sep", "pad", "unk"):
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id")
    assert len(ours) == len(theirs)
    for text in TEXTS:
        assert ours.tokenize(text) == theirs.tokenize(text)
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        for longest in (3, 12):
            assert encode(ours, text, longest) == encode(theirs, text, longest)
    for longest in (3, 12, 500):
        assert list(encode_all(ours, TEXTS, longest)) == list(encode_all(theirs, TEXTS, longest))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, len(ours), (200, 12), generator=generator)
    assert decode(ours, ids) == decode(theirs, ids)


def test_texts_are_tidied_as_by_transformers(folder):
    ours, theirs = SavedTokenizer(folder), load_tokenizer(folder)
    for text in ["it is n't clear , is it ? he 's , they 've , we 're , i 'm ' so ' !", *TEXTS]:
        ids = theirs.encode(text, add_special_tokens=False)
        for tidy in (False, True):
            for skip in (False, True):
                options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": tidy}
                assert ours.decode(ids, **options) == theirs.decode(ids, **options)


def test_other_classes_are_left_to_transformers(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "heart"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a tokenizer of the class BertTokenizer"):
        SavedTokenizer(tmp_path)
    assert not isinstance(open_tokenizer(tmp_path), SavedTokenizer)


@pytest.mark.parametrize("damage", ["broken", "no special token", "missing"])
def test_a_damaged_folder_is_refused_as_ever(folder, tmp_path, damage):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer = (folder / "tokenizer.json").read_text()
    if damage == "broken":
        tokenizer = tokenizer[: len(tokenizer) // 2]
    elif damage == "no special token":
        del settings["sep_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    if damage != "missing":
        (tmp_path / "tokenizer.json").write_text(tokenizer)
    with pytest.raises(InputError):
        open_tokenizer(tmp_path)


def test_it_needs_no_transformers(folder):
    code = (
        "import sys; from pathlib import Path; from medunifier.data.tokenizer import open_tokenizer;"
        "print(open_tokenizer(Path(sys.argv[1])).encode('heart') != [], 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("settings", "file"),
    [
        ({"truncation_side": "left"}, None),
        ({"split_special_tokens": True}, None),
        ({"extra_special_tokens": ["[DEC]", "[NEW]"]}, None),
        ({}, "added_tokens.json"),
        ({}, "truncation"),
    ],
)
def test_what_changes_ids_is_left_to_transformers(folder, tmp_path, settings, file):
    written = json.loads((folder / "tokenizer_config.json").read_text()) | settings
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(written))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    if file == "truncation":
        tokenizer["truncation"] = {
            "direction": "Left",
            "max_length": 4,
            "strategy": "LongestFirst",
            "stride": 0,
        }
    elif file:
        (tmp_path / file).write_text("{}")
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError):
        SavedTokenizer(tmp_path)
    opened, theirs = open_tokenizer(tmp_path), load_tokenizer(tmp_path)
    for text in TEXTS:
        assert encode(opened, text, 6) == encode(theirs, text, 6)
