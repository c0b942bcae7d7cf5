"""Prompt files: prompts to generate images from, and strips of prompts in which one word changes."""

import re
from dataclasses import dataclass
from pathlib import Path

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import regular_file
from medunifier.runtime.yaml import parse_yaml

HOW = "give a YAML file like workflow/prompts.yaml, or a .txt file with one prompt a line"
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # control characters, line ends among them
BLANK = "{}"  # stands for the changing word


@dataclass(frozen=True)
class Strip:
    """A sentence with a blank, and the words that fill it in turn."""

    text: str
    words: tuple[str, ...]

    def prompts(self) -> list[str]:
        """Return the sentence with each word in place of the blank."""
        return [self.text.replace(BLANK, word) for word in self.words]


@dataclass(frozen=True)
class Prompts:
    """The content of a prompt file."""

    prompts: tuple[str, ...]
    strips: tuple[Strip, ...] = ()

    def texts(self) -> list[str]:
        """Return every prompt, those of the strips after the others."""
        return [*self.prompts, *(text for strip in self.strips for text in strip.prompts())]


def read_prompts(path: str | Path) -> Prompts:
    """Read a prompt file.

    `.txt`: one prompt a line; empty lines and lines that start with # are skipped. Anything else is YAML: a list
    of prompts, or a mapping with `prompts` (a list) and `strips` (a list of `text` with one {} and `words`).

    Raises:
        InputError: naming file and entry, for a missing or broken file, for no prompt at all, an empty or a
            repeated prompt, a strip without exactly one blank or with fewer than two words.
    """
    path = Path(path)
    regular_file(path, HOW)
    try:
        # Windows editors begin UTF-8 files with a byte order mark
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no readable file of prompts ({error}); {HOW}") from error
    if path.suffix == ".txt":
        lines = [line.strip() for line in text.splitlines()]
        content = {"prompts": [line for line in lines if line and not line.startswith("#")]}
    else:
        content = _mapping(path, text)
    found = Prompts(
        tuple(_prompt(path, f"prompts[{i}]", entry) for i, entry in enumerate(content.get("prompts") or ())),
        tuple(_strip(path, f"strips[{i}]", entry) for i, entry in enumerate(content.get("strips") or ())),
    )
    if not found.prompts:
        raise InputError(f"{path}: no prompts in it; {HOW}")
    if repeated := {prompt for prompt in found.prompts if found.prompts.count(prompt) > 1}:
        raise InputError(f"{path}: prompts: {min(repeated)!r} comes twice; name each prompt once")
    return found


def _mapping(path: Path, text: str) -> dict:
    try:
        content = parse_yaml(text, str(path))
    except InputError as error:
        raise InputError(f"{error}; {HOW}") from None
    content = {"prompts": content} if isinstance(content, list) else content
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected `prompts` and `strips`; {HOW}")
    for key, entry in content.items():
        if key not in ("prompts", "strips") or not isinstance(entry, list | None):
            raise InputError(f"{path}: {key}: expected the lists `prompts` and `strips`; {HOW}")
    return content


def _prompt(path: Path, where: str, entry: object) -> str:
    if not isinstance(entry, str) or not entry.strip() or CONTROL.search(entry.strip()):
        raise InputError(f"{path}: {where} is {entry!r}; expected a text in one line that is not empty")
    return entry.strip()


def _strip(path: Path, where: str, entry: object) -> Strip:
    words = entry.get("words") if isinstance(entry, dict) else None
    if (
        not isinstance(entry, dict)
        or not isinstance(words, list)
        or len(words) < 2
        or set(entry) != {"text", "words"}
    ):
        raise InputError(
            f"{path}: {where} is {entry!r}; expected `text` with one {BLANK} and two `words` or more"
        )
    text = _prompt(path, f"{where}.text", entry["text"])
    if text.count(BLANK) != 1:
        raise InputError(f"{path}: {where}.text is {text!r}; expected one {BLANK} for the changing word")
    return Strip(text, tuple(_prompt(path, f"{where}.words[{i}]", word) for i, word in enumerate(words)))
