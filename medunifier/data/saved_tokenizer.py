"""The tokenizer of a trained model, read without transformers, whose import takes longer than many an evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import require_no_pipes
from medunifier.runtime.json_files import read_json_object

PLAIN = (
    "TokenizersBackend",
    "PreTrainedTokenizerFast",
)  # classes of transformers that tokenizer.json describes whole
# Settings that change nothing beyond the tokens that they name; what others mean, is left to transformers.
SETTINGS = (
    "backend", "cls_token", "extra_special_tokens", "is_local", "local_files_only", "mask_token", "model_max_length",
    "pad_token", "processor_class", "sep_token", "tokenizer_class", "unk_token",
)  # fmt: skip
OTHER_FILES = ("special_tokens_map.json", "added_tokens.json")  # of older versions of transformers
ROLES = ("cls", "sep", "pad", "unk")
TIDY = (" .", " ?", " !", " ,")  # a space that goes before punctuation
SHORT = {" ' ": "'", " n't": "n't", " 'm": "'m", " 's": "'s", " 've": "'ve", " 're": "'re"}


class Encodings(NamedTuple):
    """The ids of several texts."""

    input_ids: list[list[int]]


class SavedTokenizer:
    """What evaluation uses of a tokenizer of transformers, under the same names and with the same results.

    Args:
        folder: of a trained model, with tokenizer.json and tokenizer_config.json as transformers writes them.

    Raises:
        InputError: a file is missing or broken, the class is one that does more than tokenizer.json says, or a special
            token is missing.
    """

    cls_token_id: int
    sep_token_id: int
    pad_token_id: int
    unk_token_id: int

    def __init__(self, folder: Path) -> None:
        require_no_pipes(folder)
        settings = read_json_object(folder / "tokenizer_config.json")
        if settings.get("tokenizer_class") not in PLAIN:
            raise InputError(
                f"{folder}: a tokenizer of the class {settings.get('tokenizer_class')}; expected one of "
                f"{', '.join(PLAIN)}"
            )
        unknown = sorted(settings.keys() - set(SETTINGS)) + [
            name for name in OTHER_FILES if (folder / name).exists()
        ]
        if unknown:
            raise InputError(
                f"{folder}: settings of a tokenizer that are not known here: {', '.join(unknown)}"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing more special
            raise InputError(f"{folder / 'tokenizer.json'}: no tokenizer ({str(error)[:200]})") from error
        if (self._tokenizer.truncation or {}).get("direction", "right") != "right":
            raise InputError(f"{folder}: a tokenizer that cuts texts at their start")
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        for role in ROLES:
            setattr(self, f"{role}_token_id", self._id(settings.get(f"{role}_token"), folder))
        for token in [settings.get("mask_token"), *settings.get("extra_special_tokens", ())]:
            if token is not None:
                self._id(token, folder)

    def _id(self, token: Any, folder: Path) -> int:
        """Return the id of a special token."""
        text = token.get("content") if isinstance(token, dict) else token
        number = self._tokenizer.token_to_id(text) if isinstance(text, str) else None
        if number is None:
            raise InputError(
                f"{folder}: the tokenizer lacks a special token ({text}); a BERT-style one is needed"
            )
        return number

    def __len__(self) -> int:
        """Return the number of entries, special tokens included."""
        return self._tokenizer.get_vocab_size()

    def encode(
        self,
        text: str,
        add_special_tokens: bool = False,
        truncation: bool = False,
        max_length: int | None = None,
    ) -> list[int]:
        """Return the ids of the words of a text; with `truncation` the first `max_length` of them."""
        ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids[:max_length] if truncation else ids

    def __call__(
        self,
        texts: Sequence[str],
        add_special_tokens: bool = False,
        truncation: bool = False,
        max_length: int | None = None,
    ) -> Encodings:
        """Return the ids of several texts, each as `encode` gives them, computed together."""
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return Encodings([one.ids[:max_length] if truncation else one.ids for one in found])

    def tokenize(self, text: str) -> list[str]:
        """Return the pieces of a text."""
        return self._tokenizer.encode(text, add_special_tokens=False).tokens

    def decode(
        self, ids: list[int], skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> str:
        """Return the text of ids; cleaned up, without the spaces before punctuation and shortened words."""
        text = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        if clean_up_tokenization_spaces:
            for mark in TIDY:
                text = text.replace(mark, mark[1:])
            for long, short in SHORT.items():
                text = text.replace(long, short)
        return text
