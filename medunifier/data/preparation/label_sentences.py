"""Text from labels: sentences for data sets without reports, by a versioned template (workflow/label_sentences.yaml)."""

import hashlib
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import regular_file
from medunifier.runtime.schema import violations
from medunifier.runtime.yaml import parse_yaml
from medunifier.storage.tables import LABEL_PREFIX

Sentence = Annotated[str, Field(min_length=1, max_length=500)]
Word = Annotated[str, Field(min_length=1, max_length=100)]


class Template(BaseModel):
    """The content of a template file; the comments in workflow/label_sentences.yaml say what each key means."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Annotated[int, Field(ge=1)]
    opening: list[Sentence]
    views: Mapping[str, Word]
    sexes: Mapping[str, Word]
    age_step: Annotated[int, Field(ge=1, le=100)]
    positive: Sentence
    uncertain: Sentence | None
    negative: Sentence | None
    nothing: Sentence | None
    nothing_labels: list[Word]
    findings: Mapping[str, Word]
    sha256: str = ""  # of the file

    @field_validator("opening")
    @classmethod
    def _known_openings(cls, sentences: list[str]) -> list[str]:
        for sentence in sentences:
            _check_fields(sentence, {"view", "sex", "age"})
        return sentences

    @field_validator("positive", "uncertain", "negative")
    @classmethod
    def _known_fields(cls, sentence: str | None) -> str | None:
        if sentence is not None:
            _check_fields(sentence, {"finding", "name"})
        return sentence

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a template file.

        Raises:
            InputError: The file is missing, no YAML, or holds a wrong value; the message lists every one.
        """
        try:
            content = regular_file(path, "`label_sentences` in params.yaml names it").read_bytes()
            values = parse_yaml(content.decode("utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path}: no readable YAML file ({error}); `label_sentences` in params.yaml names the file "
                "with the sentences of `report_from: labels`"
            ) from None
        if not isinstance(values, dict):
            raise InputError(f"{path}: expected a mapping at the top, as in workflow/label_sentences.yaml")
        try:
            template = cls.model_validate(values)
        except ValidationError as error:
            raise InputError("\n  ".join([f"{path}: wrong value(s):", *violations(error, cls)])) from None
        return template.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})


def _check_fields(sentence: str, allowed: set[str]) -> None:
    """Refuse a sentence with other placeholders than `allowed`, or with broken ones."""
    found = {
        (name, spec, convert)
        for _, name, spec, convert in string.Formatter().parse(sentence)
        if name is not None
    }
    if not found <= {(name, "", None) for name in allowed}:
        raise ValueError(f"placeholders other than {', '.join(sorted(allowed))}")


def write_texts(images: pl.DataFrame, template: Template) -> pl.Series:
    """Return the text of each image; null where nothing is known of its findings.

    Args:
        images: a table with `view`, `sex` (F, M or null), `age` (years) and int8 labels `label_*`.
        template: the sentences.
    """
    labels = [name.removeprefix(LABEL_PREFIX) for name in images.columns if name.startswith(LABEL_PREFIX)]
    order = [name for name in template.findings if name in labels]
    order += [name for name in labels if name not in template.findings]
    rows = images.select("view", "sex", "age", *(LABEL_PREFIX + name for name in order)).rows()
    texts = {  # of each different row
        (view, sex, age, *values): _text(view, sex, age, dict(zip(order, values, strict=True)), template)
        for view, sex, age, *values in set(rows)
    }
    return pl.Series("text", [texts[row] for row in rows], pl.String)


def _text(
    view: str | None, sex: str | None, age: int | None, labels: Mapping[str, int | None], template: Template
) -> str | None:
    """Return the text of one image, or None if every label is unknown."""
    findings = {name: value for name, value in labels.items() if name not in template.nothing_labels}
    by_value = {1: template.positive, -1: template.uncertain, 0: template.negative}
    sentences = [
        sentence.format(finding=template.findings.get(name, words(name)), name=words(name))
        for name, value in findings.items()
        if value is not None and (sentence := by_value[value]) is not None
    ]
    abnormal = any(value in (1, -1) for value in findings.values())
    known = 0 in findings.values() or any(labels.get(name) == 1 for name in template.nothing_labels)
    if not abnormal and known and template.nothing is not None:
        sentences.insert(0, template.nothing)
    if not sentences:
        return None
    return " ".join([*_opening(view, sex, age, template), *sentences])


def words(name: str) -> str:
    """Return the name of a label as words, such as "pleural effusion"."""
    return name.replace("_", " ")


def _opening(view: str | None, sex: str | None, age: int | None, template: Template) -> list[str]:
    """Return the first opening whose values are all known, as a list of one sentence; else an empty list."""
    values: dict[str, Any] = {
        "view": template.views.get(view, view) if view else None,
        "sex": template.sexes.get(sex) if sex else None,
        "age": None if age is None else _years(age, template.age_step),
    }
    known = {name: value for name, value in values.items() if value is not None}
    for sentence in template.opening:
        if {name for _, name, _, _ in string.Formatter().parse(sentence) if name} <= known.keys():
            return [sentence.format(**known)]
    return []


def _years(age: int, step: int) -> str:
    """Return an age in words: `58`, or with a step of 10 `50 to 59`."""
    start = age - age % step
    return str(age) if step == 1 else f"{start} to {start + step - 1}"
