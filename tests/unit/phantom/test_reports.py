"""The phantom's reports against an independent reader of their text, and against what is true."""

import re

import numpy as np
import pytest

from medunifier.phantom.anatomy import draw_anatomy
from medunifier.phantom.findings import Finding, draw_device, draw_findings
from medunifier.phantom.report_files import FORMS, Report, write_report
from medunifier.phantom.reports import LABELS, Facts, study_labels

# What a reader looks for, written down independently of the phantom's wordings.
MENTIONS = {
    "Atelectasis": r"atelectasis",
    "Cardiomegaly": r"cardiomegaly|heart is \w+ly enlarged|heart (is|size).* normal",
    "Consolidation": r"consolidation",
    "Edema": r"edema",
    "Lung Opacity": r"opacity",
    "Pleural Effusion": r"effusions?",
    "Pneumonia": r"pneumonia",
    "Pneumothorax": r"pneumothorax",
    "Support Devices": r"pacemaker|catheter",
}
NEGATED = re.compile(r"\bno\b|\bwithout\b|\bnormal\b", re.IGNORECASE)
HEDGED = re.compile(r"possible|may represent", re.IGNORECASE)
GRADES = {1: "mild|small", 2: "moderate", 3: "severe|large"}


def make(number: int) -> tuple[Facts, Report]:
    rng = np.random.default_rng([3, number])
    anatomy, portable = draw_anatomy(rng), bool(rng.random() < 0.3)
    facts = Facts(anatomy, draw_findings(rng), draw_device(rng, portable), portable)
    return facts, write_report(facts, rng)


PAIRS = [make(number) for number in range(1500)]


def sections(text: str) -> dict[str, str]:
    """Headers and what follows them, by the rule of MIMIC-CXR's section parser; the last of a name counts."""
    parts = re.split(r"\n ([A-Z ()/,-]+):\s", text)
    return {head: " ".join(body.split()) for head, body in zip(parts[1::2], parts[2::2], strict=True)}


def text_of(report: Report) -> str:
    return " ".join(part for part in (report.findings, report.impression) if part)


def read_labels(text: str) -> dict[str, int]:
    """Labels by regular expressions and negation within a sentence, as simple labelers do it."""
    labels: dict[str, int] = {}
    for sentence in re.split(r"(?<=[a-z])\. ?", text):
        for name, pattern in MENTIONS.items():
            for mention in re.finditer(pattern, sentence, re.IGNORECASE):
                before = sentence[: mention.end()]
                value = 0 if NEGATED.search(before) else -1 if HEDGED.search(sentence) else 1
                if name == "Lung Opacity":
                    value = abs(value)  # the opacity is sure, only its cause is not
                rank = (0, -1, 1).index
                labels[name] = max(labels.get(name, 0), value, key=rank)
    return labels


def test_labels_are_what_an_independent_reader_finds_in_the_text():
    for _, report in PAIRS:
        if report.form == "neither":
            assert report.labels is None and text_of(report) == ""
            continue
        known = {name: value for name, value in report.labels.items() if name in MENTIONS}
        assert known == read_labels(text_of(report)), report.text


def test_labels_agree_with_what_is_true():
    for facts, report in PAIRS:
        if report.labels is None:
            continue
        present = {LABELS[f.name]: 1 if f.certain else -1 for f in facts.findings}
        for name in LABELS.values():
            assert report.labels.get(name, 0) == present.get(name, 0), report.text
        assert ("No Finding" in report.labels) == (not facts.findings)


def test_side_zone_and_severity_are_mentioned():
    for facts, report in PAIRS:
        if report.form == "neither":
            continue
        for finding in facts.findings:
            sentences = [s for s in re.split(r"(?<=[a-z])\. ?", text_of(report)) if names(finding, s)]
            assert sentences, report.text
            for sentence in sentences:
                if "may represent" not in sentence:
                    assert re.search(GRADES[finding.severity], sentence, re.IGNORECASE), sentence
                if finding.side in ("right", "left"):
                    assert finding.side in sentence.lower().split(), sentence
                if finding.side == "both":
                    assert re.search("bilateral|both|edema", sentence), sentence
                if finding.name in ("atelectasis", "pneumonia", "consolidation"):
                    assert f"{finding.zone} lung" in sentence


def names(finding: Finding, sentence: str) -> bool:
    return bool(
        re.search(MENTIONS[LABELS[finding.name]], sentence, re.IGNORECASE) and not NEGATED.search(sentence)
    )


def test_the_sections_come_back_from_the_file():
    heads = {
        "findings": r"FINDINGS|FINDINDGS|FINDNGS|FINDING|.*CHEST.*",
        "impression": r"IMPRESSION|IMPRESSON|IMPRSSION|FINDINGS AND IMPRESSION|CONCLUSION",
    }
    for _, report in PAIRS:
        found = sections(report.text)
        assert report.text.lstrip().startswith("FINAL REPORT")
        if report.form == "headerless":
            assert not found and " ".join(report.text.split("\n \n")[-1].split()) == report.impression
            continue
        for section, pattern in heads.items():
            read = [body for head, body in found.items() if re.fullmatch(pattern, head)]
            assert read == [part for part in [getattr(report, section)] if part], report.text


def test_every_form_of_report_occurs_about_as_often_as_it_should():
    forms = [report.form for _, report in PAIRS]
    for form, share in FORMS.items():
        spread = 4 * np.sqrt(share * (1 - share) / len(forms))
        assert abs(forms.count(form) / len(forms) - share) < spread, form
    assert sum(FORMS.values()) == pytest.approx(1)


def test_reports_are_short_and_their_vocabulary_is_small():
    lengths = [len(report.findings.split()) for _, report in PAIRS if report.findings]
    assert np.quantile(lengths, 0.02) >= 24 and max(lengths) <= 70
    words = {word for _, report in PAIRS for word in re.findall("[a-z]+", text_of(report).lower())}
    assert len(words) < 130


def test_reports_differ_from_patient_to_patient():
    texts = [text_of(report) for _, report in PAIRS]
    assert len(set(texts)) > 0.75 * len(texts)


def test_a_certain_mention_outweighs_doubt_and_doubt_a_negation():
    from medunifier.phantom.reports import Sentence

    three_mentions = [Sentence("", {"Edema": value}) for value in (0, 1, -1)]
    assert study_labels(three_mentions) == {"Edema": 1}
    assert study_labels(three_mentions[::2]) == {"Edema": -1}
    assert study_labels(three_mentions[:1]) == {"Edema": 0, "No Finding": 1}
    assert study_labels([]) == {}
