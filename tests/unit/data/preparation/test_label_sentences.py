"""Text from labels: sentences worked out by hand, the shipped template, and broken template files."""

import hashlib

import polars as pl
import pytest

from medunifier.data.layouts.nih_chestxray14 import FINDINGS
from medunifier.data.preparation.label_sentences import Template, write_texts
from medunifier.metrics.mentions import findings_mentioned
from medunifier.runtime.errors import InputError
from medunifier.runtime.yaml import parse_yaml
from tests.support.fake_files import put
from tests.support.paths import REPO

SHIPPED = REPO / "workflow/label_sentences.yaml"


@pytest.fixture(scope="module")
def template():
    return Template.read(SHIPPED)


def text_of(template, view="PA", sex="F", age=58, **labels):
    columns = {f"label_{name}": pl.Series([value], dtype=pl.Int8) for name, value in labels.items()}
    frame = pl.DataFrame({"view": [view], "sex": [sex], "age": [age]}, {"view": str, "sex": str, "age": int})
    return write_texts(frame.with_columns(**columns), template).item()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        # In the template's order, whatever that of the columns.
        (
            {"pleural_effusion": 1, "cardiomegaly": 1, "edema": 0},
            "There is cardiomegaly. There is a pleural effusion.",
        ),
        ({"pneumonia": -1, "edema": None}, "There may be pneumonia."),
        ({"pneumonia": 0, "edema": None}, "No abnormality is seen."),
        ({"no_finding": 1, "pneumonia": None}, "No abnormality is seen."),
        ({"no_finding": 0, "pneumonia": 1}, "There is pneumonia."),
        ({"odd_shadow": 1}, "There is odd shadow."),
    ],
)
def test_sentences_of_labels(template, labels, expected):
    opening = "PA chest radiograph of a female patient aged 50 to 59."
    assert text_of(template, **labels) == f"{opening} {expected}"


@pytest.mark.parametrize("labels", [{"pneumonia": None}, {"no_finding": 0, "pneumonia": None}])
def test_nothing_known_is_no_text(template, labels):
    """A label that says that something is abnormal, and not what, tells nothing to write."""
    assert text_of(template, **labels) is None


@pytest.mark.parametrize(
    ("known", "opening"),
    [
        ({"age": None}, "PA chest radiograph of a female patient. "),
        ({"sex": None}, "PA chest radiograph of a patient aged 50 to 59. "),
        ({"sex": "X", "age": None}, "PA chest radiograph. "),
        ({"view": None}, "Chest radiograph of a female patient aged 50 to 59. "),
        ({"view": "AP Supine", "age": 0}, "Supine AP chest radiograph of a female patient aged 0 to 9. "),
        ({"view": "LAO", "sex": None, "age": None}, "LAO chest radiograph. "),
        ({"view": None, "sex": None, "age": None}, ""),
    ],
)
def test_the_opening_says_what_is_known(template, known, opening):
    assert text_of(template, **known, pneumonia=1) == f"{opening}There is pneumonia."


def test_ages_as_they_are_and_sentences_of_absence(template, tmp_path):
    text = SHIPPED.read_text(encoding="utf-8").replace("age_step: 10", "age_step: 1")
    text = text.replace("negative: null", 'negative: "There is no {name}."')
    own = Template.read(put(tmp_path / "own.yaml", text))
    assert text_of(own, pneumonia=1, mass=0) == (
        "PA chest radiograph of a female patient aged 58. There is pneumonia. There is no mass."
    )
    assert own.sha256 == hashlib.sha256(text.encode()).hexdigest() != template.sha256


def test_the_rule_of_the_finding_metric_reads_every_sentence_back(template):
    """Each of NIH's 14 labels alone and with the next one: what is written is what `findings_mentioned` finds."""
    names = [label.removeprefix("label_") for label in FINDINGS.values()]
    for first, second in zip(names, [*names[1:], names[0]], strict=True):
        for chosen in ({first}, {first, second}):
            text = text_of(template, **{name: int(name in chosen) for name in names})
            assert set(findings_mentioned(text, tuple(names))) == chosen, text
    clear = text_of(template, no_finding=1, **dict.fromkeys(names, 0))
    assert findings_mentioned(clear, tuple(names)) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "version: 0 is refused; allowed: integer, at least 1"),
        ({"extra": 1}, "extra: unknown key"),
        ({"positive": "There is {label}."}, "positive: .* is refused"),
        ({"opening": ["{view!r}"]}, "opening: .* is refused"),
        ({"opening": ["{view.__class__}"]}, "opening: .* is refused"),
        ({"positive": "{"}, "positive: .* is refused"),
        ({"findings": None}, "findings: null is refused"),
    ],
)
def test_a_broken_template_is_refused(tmp_path, change, message):
    content = parse_yaml(SHIPPED.read_text(encoding="utf-8"), "shipped") | change
    path = put(tmp_path / "own.yaml", "\n".join(f"{key}: {_flow(value)}" for key, value in content.items()))
    with pytest.raises(InputError, match=message):
        Template.read(path)


def test_a_file_that_is_no_template(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: not found; `label_sentences` in params"):
        Template.read(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="expected a mapping at the top"):
        Template.read(put(tmp_path / "list.yaml", "- a\n"))
    with pytest.raises(InputError, match="no readable YAML file"):
        Template.read(put(tmp_path / "bytes.yaml", b"\xff\xfe"))


def _flow(value):
    import json

    return json.dumps(value)
