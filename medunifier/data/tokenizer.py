"""Train, load and use the tokenizer of reports."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from medunifier.data.saved_tokenizer import SavedTokenizer
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import require_no_pipes
from medunifier.runtime.json_files import read_json_object
from medunifier.runtime.pretrained import load_pretrained

# transformers is imported where it is needed: that takes longer than many an evaluation.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

DECODE_TOKEN = "[DEC]"  # first token of a text to be generated, as [CLS] is of one to be encoded
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
GROUP = 1000  # texts tokenized at once
_INNER = 0xF0000  # a private plane of Unicode, in which every character of the basic plane has a place


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a lower-casing WordPiece tokenizer with BERT's special tokens and [DEC].

    The same texts give the same tokenizer.

    Args:
        texts: the training reports.
        vocab_size: entries, special tokens included.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = [*SPECIAL.values(), DECODE_TOKEN]

    # The library's WordPieceTrainer numbers the inner characters (##a) in the order of a hash map, and breaks ties by
    # these numbers: every training has another outcome (huggingface/tokenizers, issue 1794). Its BpeTrainer numbers
    # characters in order. So inner characters are mapped to characters of their own, and back to ## afterwards.
    words: Counter[str] = Counter()
    for text in texts:
        split = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
        words.update(word for word, _ in split)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(set("".join(words))),  # a new word may begin with any of them
        show_progress=False,
    )
    pieces = Tokenizer(models.BPE())
    marked = (word[0] + "".join(map(_as_inner, word[1:])) for word in words.elements())
    pieces.train_from_iterator(marked, trainer)
    vocabulary = {_as_wordpiece(piece): number for piece, number in pieces.get_vocab().items()}
    tokenizer.model = models.WordPiece(vocabulary, unk_token=SPECIAL["unk"])
    tokenizer.add_special_tokens(special)
    names = {f"{role}_token": token for role, token in SPECIAL.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, additional_special_tokens=[DECODE_TOKEN], model_max_length=512
    )


def _as_inner(character: str) -> str:
    """Mark a character inside a word; those beyond the basic plane, of which reports have none, stay unmarked."""
    return chr(_INNER + ord(character)) if ord(character) < 0xFFFE else character


def _as_wordpiece(piece: str) -> str:
    """Return a piece of marked characters in WordPiece's form: ## where it does not begin a word."""
    plain = "".join(chr(ord(c) - _INNER) if _INNER <= ord(c) < _INNER + 0xFFFE else c for c in piece)
    return plain if plain[0] == piece[0] else "##" + plain


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer by hub name or folder; [DEC] is added where it is missing. A `Path` is a folder, never a hub name.

    A tokenizer of a class that transformers does not have, such as CXR-BERT's `CXRBertTokenizer`, is loaded as the
    BERT tokenizer that its files hold; code beside them is not run.

    Raises:
        InputError: it cannot be loaded, or lacks one of [CLS], [SEP], [PAD].
    """
    if isinstance(name, Path) and not name.is_dir():
        raise InputError(f"no tokenizer at {str(name)!r}: there is no such folder")
    try:
        tokenizer = _load(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"no tokenizer at {str(name)!r}: {' '.join(str(error).split())[:300]}. Give a folder with tokenizer.json or "
            "vocab.txt, or a hub name."
        ) from error
    for role in ("cls", "sep", "pad"):
        if getattr(tokenizer, f"{role}_token_id") is None:
            raise InputError(
                f"the tokenizer {str(name)!r} has no {role} token; a BERT-style tokenizer is needed."
            )
    if DECODE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [DECODE_TOKEN]})
    return tokenizer


def open_tokenizer(folder: Path) -> SavedTokenizer | PreTrainedTokenizerBase:
    """Load the tokenizer of a trained model: without transformers where `SavedTokenizer` can.

    Raises:
        InputError: as `load_tokenizer` does.
    """
    try:
        return SavedTokenizer(folder)
    except InputError:
        return load_tokenizer(folder)


def _load(name: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer by its own class, or as the BERT tokenizer of its vocabulary where that class is not known."""
    from transformers import AutoTokenizer, BertTokenizer
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if Path(name).is_dir():
        require_no_pipes(name)
    settings = read_json_object(path) if (path := _file(name, "tokenizer_config.json")) else {}
    kind = str(settings.get("tokenizer_class") or "")
    known = tokenizer_class_from_name(kind) is not None if kind else _file(name, "tokenizer.json") is not None
    if known and "auto_map" not in settings:
        return load_pretrained(AutoTokenizer, name)
    tokenizer = load_pretrained(BertTokenizer, name)
    tokenizer.init_kwargs.pop(
        "auto_map", None
    )  # it would be saved beside every model that is trained with it
    return tokenizer


def _file(name: str | Path, file: str) -> str | None:
    """Return the path of a file of a folder or hub repository; None if it has none."""
    from transformers.utils.hub import cached_file

    return cached_file(
        str(name),
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def special_id(tokenizer: SavedTokenizer | PreTrainedTokenizerBase, role: str) -> int:
    """Return the id of the token `pad`, `cls` or `sep`."""
    return getattr(tokenizer, f"{role}_token_id")


def tokenize(
    tokenizer: SavedTokenizer | PreTrainedTokenizerBase, texts: list[str], max_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask (B, L) of texts: [CLS] words [SEP], cut at `max_tokens`, padded to the longest."""
    ids = [encode(tokenizer, text, max_tokens) for text in texts]
    return pad(ids, special_id(tokenizer, "pad"))


def encode(tokenizer: SavedTokenizer | PreTrainedTokenizerBase, text: str, max_tokens: int) -> list[int]:
    """Return the ids of one text: [CLS] words [SEP]; words are cut at `max_tokens` in all."""
    words = tokenizer.encode(text, add_special_tokens=False, truncation=True, max_length=max_tokens - 2)
    return [special_id(tokenizer, "cls"), *words, special_id(tokenizer, "sep")]


class TokenLists(Sequence[list[int]]):
    """The ids of many texts in one array: 2 bytes a token, or 4, where lists of Python's integers take some 36.

    Args:
        texts: ids of one text after the other.
        vocab_size: ids are below it.
    """

    def __init__(self, texts: Iterable[list[int]], vocab_size: int) -> None:
        ids, ends = array("H" if vocab_size <= 2**16 else "I"), array("q", [0])
        for text in texts:
            ids.extend(text)
            ends.append(len(ids))
        self.ids, self.ends = ids, ends

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: int) -> list[int]:  # pyright: ignore[reportIncompatibleMethodOverride] no slices
        return self.ids[self.ends[number] : self.ends[number + 1]].tolist()


def encode_all(
    tokenizer: SavedTokenizer | PreTrainedTokenizerBase, texts: Iterable[str], max_tokens: int
) -> TokenLists:
    """Return the ids of many texts, each as `encode` gives them, computed in groups."""
    first, last = special_id(tokenizer, "cls"), special_id(tokenizer, "sep")

    def rows() -> Iterator[list[int]]:
        for group in batched(texts, GROUP):
            words = tokenizer(
                group, add_special_tokens=False, truncation=True, max_length=max_tokens - 2
            ).input_ids
            yield from ([first, *ids, last] for ids in words)

    return TokenLists(rows(), len(tokenizer))


def batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield lists of `size` items, the last one of what is left (itertools has it from Python 3.12 on)."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def pad(rows: list[list[int]], pad_id: int, length: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask (B, L) of lists of ids; L is `length`, or that of the longest."""
    length = length or max(map(len, rows))
    ids = torch.full((len(rows), length), pad_id)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def decode(tokenizer: SavedTokenizer | PreTrainedTokenizerBase, ids: torch.Tensor) -> list[str]:
    """Return the texts of generated ids (B, L), each up to its first [SEP], without special tokens."""
    texts = []
    for row in ids.tolist():
        end = row.index(tokenizer.sep_token_id) if tokenizer.sep_token_id in row else len(row)
        texts.append(tokenizer.decode(row[:end], skip_special_tokens=True, clean_up_tokenization_spaces=True))
    return texts
