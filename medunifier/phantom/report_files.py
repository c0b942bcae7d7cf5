"""Lays a report out as MIMIC-CXR's text files do, with the headers and oddities that occur there."""

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

# How often each way of writing a report occurs; see `_body` for what each means.
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
        findings, impression: the words of each section as plain text; None if the report lacks it. In
            the forms merged and headerless both are one text, given as `impression`.
        labels: official label name -> 1, 0, -1, from the sentences that the file really holds; None for
            a report of which no labeler makes anything.
    """

    text: str
    form: str
    findings: str | None
    impression: str | None
    labels: dict[str, int] | None


def write_report(facts: Facts, rng: np.random.Generator) -> Report:
    """The report of a study."""
    form = str(rng.choice(list(FORMS), p=list(FORMS.values())))
    seen, meant = findings_section(facts, rng), impression_section(facts, rng)
    if form in ("impression only", "neither"):
        seen = []
    if form in ("findings only", "neither"):
        meant = []
    findings, impression = _join(seen), _join(meant)
    if form in ("merged", "headerless"):
        findings, impression = None, f"{findings} {impression}"
    text = _preamble(facts, form, rng) + _body(facts, form, findings, impression, rng)
    labels = None if form == "neither" else study_labels(seen + meant)
    return Report(text, form, findings, impression, labels)


def _join(sentences: list[Sentence]) -> str | None:
    return " ".join(sentence.text for sentence in sentences) or None


def _preamble(facts: Facts, form: str, rng: np.random.Generator) -> str:
    """Examination, indication and comparison; names, dates and ages are cut out as `___`."""
    person, complaint, question = (rng.choice(words) for words in (("man", "woman"), COMPLAINTS, QUESTIONS))
    lines = ["", f" EXAMINATION:  {EXAMINATIONS[facts.portable]}", " "]
    lines += [f" INDICATION:  ___ year old {person} with {complaint}  // evaluate for {question}", " "]
    if rng.random() < 0.7 and form != "neither":
        lines += [" COMPARISON:  " + str(rng.choice(("___.", "None.", "Chest radiograph ___."))), " "]
    if form == "headerless":  # the examination stands alone, without any header
        lines = ["", f" {EXAMINATIONS[facts.portable].capitalize()} of ___", " "]
    if form == "addendum":
        lines[1:1] = [" ADDENDUM:  Dr. ___ was informed by telephone on ___.", " "]
    return " " * 33 + "FINAL REPORT\n" + "\n".join(lines[1:]) + "\n"


def _body(
    facts: Facts, form: str, findings: str | None, impression: str | None, rng: np.random.Generator
) -> str:
    """The sections that carry the text.

    `merged` is one section for both, `title` gives the procedure instead of FINDINGS, `headerless` is a
    last paragraph without header, `repeated` states findings twice (the last counts), `neither` has none.
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
        return _wrap(impression)
    sections = [(heads["FINDINGS"], findings), (heads["IMPRESSION"], impression)]
    if form == "impression first":
        sections.reverse()
    if form == "repeated":
        sections.insert(0, (heads["FINDINGS"], "Preliminary read, to be reviewed."))
    written = [f" {head}: \n \n{_wrap(text)}" for head, text in sections if text]
    return " \n".join(written) or " WET READ: ___ ___, no wet read was given.\n"


def _wrap(text: str) -> str:
    return textwrap.fill(text, 78, initial_indent=" ", subsequent_indent=" ") + "\n"
