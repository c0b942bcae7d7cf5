"""Prompt files: the shipped one, a user's own in YAML or text, and files that are rejected."""

import pytest

from medunifier.metrics.mentions import findings_mentioned
from medunifier.phantom.findings import FINDINGS
from medunifier.runtime.errors import InputError
from medunifier.synthesis.prompts import Prompts, Strip, read_prompts
from tests.support.paths import REPO

SHIPPED = REPO / "workflow/prompts.yaml"


def test_the_shipped_prompts_name_each_finding_equally_often():
    mentioned = [findings_mentioned(prompt, FINDINGS) for prompt in read_prompts(SHIPPED).prompts]
    assert all(len(findings) == 1 for findings in mentioned)
    prompted = [(finding, side) for findings in mentioned for finding, side in findings.items()]
    assert {finding: sum(f == finding for f, _ in prompted) for finding in FINDINGS} == dict.fromkeys(
        FINDINGS, 2
    )
    assert sum(s == "left" for _, s in prompted) == sum(s == "right" for _, s in prompted) == 5


def test_yaml_and_text(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "prompts: [one, ' two ']\nstrips: [{text: 'a {} heart', words: [big, small]}]"
    )
    found = read_prompts(tmp_path / "a.yaml")
    assert found == Prompts(("one", "two"), (Strip("a {} heart", ("big", "small")),))
    assert found.texts() == ["one", "two", "a big heart", "a small heart"]
    (tmp_path / "b.yaml").write_text("- one\n- two\n")
    (tmp_path / "b.txt").write_text("\ufeff# my own\none\n\n  two\n", encoding="utf-8")
    assert read_prompts(tmp_path / "b.yaml") == read_prompts(tmp_path / "b.txt") == Prompts(("one", "two"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected `prompts` and `strips`"),
        ("a: [", "not valid YAML"),
        ("prompt: [a]", "prompt: expected the lists"),
        ("prompts: a", "prompts: expected the lists"),
        ("prompts: []", "no prompts in it"),
        ("prompts: [a, ' ']", r"prompts\[1\] is ' '; expected a text"),
        ("prompts: [3]", r"prompts\[0\] is 3; expected a text"),
        ("prompts: [a, b, a]", "'a' comes twice"),
        ("{prompts: [a], strips: [b]}", r"strips\[0\] is 'b'; expected `text`"),
        ("{prompts: [a], strips: [{text: 'b {}', words: [c]}]}", "two `words` or more"),
        ("{prompts: [a], strips: [{text: b, words: [c, d]}]}", r"strips\[0\].text is 'b'; expected one {}"),
        ("{prompts: [a], strips: [{text: '{}', words: [c, '']}]}", r"strips\[0\].words\[1\] is ''"),
    ],
)  # fmt: skip
def test_mistakes_are_rejected_by_name(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.yaml: not found; give a YAML file like"):
        read_prompts(tmp_path / "nowhere.yaml")
