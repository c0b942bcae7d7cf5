"""Format reports like the text files of MIMIC-CXR, with their headers and irregularities."""

import textwrap
from dataclasses import dataclass

import numpy as np

from medunifier.phantom.reports import (
    Facts,
    Sentence,
    findings_section,
    impression_section,
    study_labels,
)

# Shares of the forms of a report; `_body` explains them.
FORMS = {
    "standard": 0.700,
    "impression only": 0.070,
    "findings only": 0.060,
    "impression first": 0.030,
    "misspelt": 0.040,
    "merged": 0.025,
    "conclusion": 0.020,
    "title": 0.025,
    "headerless": 0.015,
    "repeated": 0.005,
    "addendum": 0.005,
    "neither": 0.005,
}
MISSPELT = {
    "FINDINGS": ("FINDINDGS", "FINDNGS", "FINDING"),
    "IMPRESSION": ("IMPRESSON", "IMPRSSION", "IMPRESSION"),
}
TITLES = {False: ("CHEST, TWO VIEWS", "PA AND LATERAL VIEWS OF THE CHEST"), True: ("PORTABLE AP CHEST",)}
EXAMINATIONS = {False: "CHEST (PA AND LAT)", True: "CHEST (PORTABLE AP)"}
COMPLAINTS = ("cough", "fever", "dyspnea", "chest pain", "hypoxia", "weakness")
QUESTIONS = ("pneumonia", "effusion", "acute process", "edema", "interval change")


@dataclass(frozen=True)
class Report:
    """One report file.

    Attributes:
        text: the whole file.
        form: a key of FORMS.
        findings: the section's text; None if the report lacks it.
        impression: the same. In the forms merged and headerless it is the text of both sections.
        labels: official label name -> 1, 0, -1, from the sentences in the file; None for a report without any.
    """

    text: str
    form: str
    findings: str | None
    impression: str | None
    labels: dict[str, int] | None


def write_report(facts: Facts, rng: np.random.Generator) -> Report:
    """Write the report of a study."""
    form = str(rng.choice(list(FORMS), p=list(FORMS.values())))
    findings_part, impression_part = findings_section(facts, rng), impression_section(facts, rng)
    if form in ("impression only", "neither"):
        findings_part = []
    if form in ("findings only", "neither"):
        impression_part = []
    findings, impression = _join(findings_part), _join(impression_part)
    if form in ("merged", "headerless"):
        findings, impression = None, f"{findings} {impression}"
    text = _preamble(facts, form, rng) + _body(facts, form, findings, impression, rng)
    labels = None if form == "neither" else study_labels(findings_part + impression_part)
    return Report(text, form, findings, impression, labels)


def _join(sentences: list[Sentence]) -> str | None:
    """Return the text of some sentences; None if there are none."""
    return " ".join(sentence.text for sentence in sentences) or None


def _preamble(facts: Facts, form: str, rng: np.random.Generator) -> str:
    """Return examination, indication and comparison; names, dates and ages are replaced by `___`."""
    person, complaint, question = (
        rng.choice(choices) for choices in (("man", "woman"), COMPLAINTS, QUESTIONS)
    )
    lines = ["", f" EXAMINATION:  {EXAMINATIONS[facts.portable]}", " "]
    lines += [f" INDICATION:  ___ year old {person} with {complaint}  // evaluate for {question}", " "]
    if rng.random() < 0.7 and form != "neither":
        lines += [" COMPARISON:  " + str(rng.choice(("___.", "None.", "Chest radiograph ___."))), " "]
    if form == "headerless":  # the examination alone, without a header
        lines = ["", f" {EXAMINATIONS[facts.portable].capitalize()} of ___", " "]
    if form == "addendum":
        lines[1:1] = [" ADDENDUM:  Dr. ___ was informed by telephone on ___.", " "]
    return " " * 33 + "FINAL REPORT\n" + "\n".join(lines[1:]) + "\n"


def _body(
    facts: Facts, form: str, findings: str | None, impression: str | None, rng: np.random.Generator
) -> str:
    """Return the sections with the text.

    `merged` is one section for both, `title` has the procedure as the header of the findings, `headerless` is a
    last paragraph without header, `repeated` has findings twice (the last counts), `neither` has no section.
    """
    heads = {"FINDINGS": "FINDINGS", "IMPRESSION": "IMPRESSION"}
    if form == "misspelt":
        heads = {head: str(rng.choice(wrong)) for head, wrong in MISSPELT.items()}
    elif form == "merged":
        heads["IMPRESSION"] = "FINDINGS AND IMPRESSION"
    elif form == "conclusion":
        heads["IMPRESSION"] = "CONCLUSION"
    elif form == "title":
        heads["FINDINGS"] = str(rng.choice(TITLES[facts.portable]))
    elif form == "headerless":
        return _wrap(impression or "")
    sections = [(heads["FINDINGS"], findings), (heads["IMPRESSION"], impression)]
    if form == "impression first":
        sections.reverse()
    if form == "repeated":
        sections.insert(0, (heads["FINDINGS"], "Preliminary read, to be reviewed."))
    written = [f" {head}: \n \n{_wrap(text)}" for head, text in sections if text]
    return " \n".join(written) or " WET READ: ___ ___, no wet read was given.\n"


def _wrap(text: str) -> str:
    """Break a text into indented lines."""
    return textwrap.fill(text, 78, initial_indent=" ", subsequent_indent=" ") + "\n"
