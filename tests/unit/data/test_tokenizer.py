"""The tokenizer: training, loading, encoding and decoding."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from medunifier.data.tokenizer import (
    DECODE_TOKEN,
    SPECIAL,
    decode,
    encode,
    encode_all,
    load_tokenizer,
    tokenize,
    train_wordpiece,
)
from medunifier.runtime.errors import InputError

REPORTS = ["There is a large left pleural effusion.", "No pneumothorax. The heart is not enlarged."] * 5


def test_round_trip_and_special_tokens(tmp_path):
    tokenizer = train_wordpiece(REPORTS, 80)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    ids, mask = tokenize(again, REPORTS[:2], 95)
    assert ids[:, 0].tolist() == [again.cls_token_id] * 2
    assert [row[m.bool()][-1].item() for row, m in zip(ids, mask, strict=True)] == [again.sep_token_id] * 2
    assert decode(again, ids[:, 1:]) == [text.lower() for text in REPORTS[:2]]
    assert again.unk_token_id not in ids
    assert again.convert_tokens_to_ids("[DEC]") != again.unk_token_id


def test_the_same_texts_give_the_same_tokenizer():
    """The library's own WordPieceTrainer fails this (huggingface/tokenizers, issue 1794)."""
    texts = [
        "Small left pleural effusion, no pneumothorax.",
        "The heart is enlarged; lungs are hyperinflated.",
    ]
    found = {train_wordpiece(texts, 60).backend_tokenizer.to_str() for _ in range(8)}
    assert len(found) == 1


def test_pieces_are_those_of_wordpiece_where_no_tie_decides():
    """Every count is another: each of the library's trainings then learns the same pieces, and so do we."""
    words = ["abc", "abd", "ab", "xab", "xyz", "q"]
    text = " ".join(" ".join([word] * 3**n) for n, word in enumerate(words, start=1))
    for size in (16, 18, 20, 40):
        library = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        special = [*SPECIAL.values(), DECODE_TOKEN]
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
        library.train_from_iterator([text], trainer)
        assert set(train_wordpiece([text], size).get_vocab()) == set(library.get_vocab())
    tokenizer = train_wordpiece([text], 40)
    assert tokenizer.tokenize("xabcabd Q") == ["xab", "##c", "##a", "##b", "##d", "q"]


@pytest.mark.parametrize("vocab_size", [80, 80_000])
def test_many_texts_together_have_the_ids_of_each_by_itself(monkeypatch, vocab_size):
    tokenizer = train_wordpiece(REPORTS, 80)
    if vocab_size > 80:  # ids beyond two bytes
        tokenizer.add_tokens([f"word{number}" for number in range(vocab_size)])
    monkeypatch.setattr("medunifier.data.tokenizer.GROUP", 4)
    texts = [*REPORTS[:5], "", " ".join(REPORTS), f"Effusion word{vocab_size - 100} left", "Éffusion?"]
    found = encode_all(tokenizer, iter(texts), 12)
    assert list(found) == [encode(tokenizer, text, 12) for text in texts] and len(found) == len(texts)
    assert len(encode_all(tokenizer, [], 12)) == 0


def test_long_reports_are_cut_and_keep_their_end():
    tokenizer = train_wordpiece(REPORTS, 80)
    ids = encode(tokenizer, " ".join(REPORTS), 12)
    assert len(ids) == 12 and ids[-1] == tokenizer.sep_token_id
    assert ids[:-1] == encode(tokenizer, " ".join(REPORTS), 95)[:11]


def test_a_missing_tokenizer_says_what_to_give(tmp_path):
    with pytest.raises(InputError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "nothing")


def test_a_missing_folder_is_not_sought_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no tokenizer at 'models/tokenizer': there is no such folder"):
        load_tokenizer(Path("models/tokenizer"))  # by its form a hub name, too
