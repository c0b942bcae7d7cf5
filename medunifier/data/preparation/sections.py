"""Split free-text radiology reports into findings and impression.

Gives the same sections as the parser published by MIMIC-CXR's authors (MIT-LCP/mimic-cxr, txt/section_parser.py and
txt/create_section_files.py); the names, misspellings and study ids below come from there.
"""

import re
from functools import cache
from typing import NamedTuple

_HEADER = re.compile(r"\n ([A-Z ()/,-]++):\s")
_BLANK_LINE = "\n \n"
_NDICATION = re.compile(r"(\n +)NDICATION( *:\s)")

_SPELLINGS = {
    "findings": (
        "findings", "finding", "findins", "findindgs", "findgings", "findngs", "findnings", "finidngs",
        "reference findings", "chest, two views",
    ),
    "impression": (
        "impression", "impresson", "imprression", "imoression", "impressoin", "imprssion", "impresion",
        "imperssion", "mpression", "impession", "conclusion", "findings and impression",
        "findings/impression", "findings/ impression",
        "ndication",  # surprising, but the published parser maps it so; see `without_ndication`
    ),
    "comparison": (
        "comparison", "comparisons", "comparision", "comparsion", "comparrison", "comparisions",
        "reference exam", "comparison exam", "comparison film",
    ),
    "indication": (
        "indication", "idication", "reason for examination", "reason for exam", "clinical indication",
    ),
    "history": ("history", "clinical history", "clinical information", "patient history", "pfi"),
    "examination": ("examination", "exam", "type of examination"),
    "recommendations": ("recommendations", "recommendation", "recommendation(s)"),
    "wet read": ("wet read", "wetread"),
}  # fmt: skip
_NAME_OF = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}
_NAME_INSIDE = ("impression", "findings", "history", "comparison", "addendum")
# Names of the procedure that serve as the header of the findings.
_TITLE = re.compile(
    "chest|portable|pa and lat|lateral and pa|ap and lateral|lateral and ap|frontal and|two views"
    "|frontal view|pa view|ap view|one view|lateral view|bone window"
    "|frontal upright|frontal semi-upright|ribs"
)

# Studies of MIMIC-CXR with the text in a section of another name ...
_TEXT_UNDER = {
    "50913680": "recommendations", "59363654": "examination", "59279892": "technique",
    "59768032": "recommendations", "57936451": "indication", "50058765": "indication",
    "53356173": "examination", "53202765": "technique", "50808053": "technique", "51966317": "indication",
    "50743547": "examination", "56451190": "note", "59067458": "recommendations", "59215320": "examination",
    "55124749": "indication", "54365831": "indication", "59087630": "recommendations",
    "58157373": "recommendations", "56482935": "recommendations", "58375018": "recommendations",
    "54654948": "indication", "55157853": "examination", "51491012": "history",
}  # fmt: skip
# ... or between two character positions of the file ...
_TEXT_BETWEEN = {
    "50525523": (201, 349), "57564132": (233, 554), "59982525": (313, 717), "53488209": (149, 475),
    "54875119": (234, 988), "50196495": (59, 399), "56579911": (59, 218), "52648681": (292, 631),
    "59889364": (172, 453), "53514462": (73, 377), "59505494": (59, 450), "53182247": (59, 412),
    "51410602": (47, 320), "56412866": (522, 822), "54986978": (59, 306), "59003148": (262, 505),
    "57150433": (61, 394), "56760320": (219, 457), "59562049": (158, 348), "52674888": (145, 296),
    "55258338": (192, 568), "59330497": (140, 655), "52119491": (179, 454),
}  # fmt: skip
# ... or without any text about the image.
_NO_TEXT = {
    "58235663", "50798377", "54168089", "53071062", "56724958", "54231141", "53607029", "52035334",
}  # fmt: skip
_BY_HAND = frozenset((*_TEXT_UNDER, *_TEXT_BETWEEN, *_NO_TEXT))


class Report(NamedTuple):
    """The sections of one report with white space normalised; None for a missing section.

    `body` is set only if both findings and impression are missing: the text to use in their place.
    """

    findings: str | None = None
    impression: str | None = None
    body: str | None = None


def parse_report(text: str, study_id: str | None = None) -> Report:
    """Split a report into sections.

    Args:
        text: the report.
        study_id: the study's number in MIMIC-CXR, which may have a hand-made rule.
    """
    parts = _HEADER.split(text)  # the text before the first section, then header and text of each section
    if study_id in _BY_HAND:
        if study_id in _NO_TEXT:
            return Report()
        if study_id in _TEXT_BETWEEN:
            start, end = _TEXT_BETWEEN[study_id]
            return Report(body=clean_text(text[start:end]))
        if (name := _TEXT_UNDER[study_id]) in (sections := _sections(parts)):
            return Report(body=clean_text(sections[name]))
    findings, impression = _main_sections(parts)
    if findings or impression:
        return Report(findings, impression)
    sections = _sections(parts)
    return Report(body=clean_text(sections.get("last_paragraph", sections.get("comparison"))))


def has_ndication(text: str) -> bool:
    """Return whether a report may have the heading NDICATION; quick, for most have not."""
    return " NDICATION" in text


def without_ndication(text: str) -> str:
    """Return a report with the heading NDICATION, which the published parser takes for an impression, spelt right."""
    return _NDICATION.sub(r"\1INDICATION\2", text)


def clean_text(text: str | None) -> str | None:
    """Replace runs of white space by one space; None if nothing is left. `___` (removed identifiers) stays."""
    return " ".join(text.split()) or None if text else None


def decode_text(raw: bytes) -> tuple[str, bool]:
    r"""Return the text of a report file with `\n` line ends, and whether it is UTF-8 (else Windows-1252).

    Raises:
        UnicodeError: The file is text in neither encoding.
    """
    if b"\0" in raw:
        raise UnicodeError("it holds zero bytes, so it is no text in UTF-8 or Latin-1")
    try:
        text, is_utf8 = raw.decode("utf-8"), True
    except UnicodeDecodeError:
        text, is_utf8 = raw.decode("cp1252"), False
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text, is_utf8


def _main_sections(parts: list[str]) -> tuple[str | None, str | None]:
    """Return findings and impression, of several the last non-empty one; most reports end with these two."""
    findings = impression = None
    for position in range(len(parts) - 2, 0, -2):
        name = _section_name(parts[position])
        if name == "impression":
            impression = impression or clean_text(parts[position + 1])
        elif name == "findings":
            findings = findings or clean_text(parts[position + 1])
        if findings and impression:
            break
    return findings, impression


def _sections(parts: list[str]) -> dict[str, str]:
    """Map section names to texts: the last of each name; empty findings and impressions are left out."""
    named, last = {"preamble": parts[0]}, "preamble"
    for header, text in zip(parts[1::2], parts[2::2], strict=True):
        name = _section_name(header)
        if name not in ("findings", "impression") or (text and not text.isspace()):
            named[name], last = text, name
    if "findings" not in named and "impression" not in named:
        named[last], blank_line, rest = named[last].partition(_BLANK_LINE)
        if blank_line:
            named["last_paragraph"] = rest
    return named


@cache
def _section_name(header: str) -> str:
    """Return the section name for a header; the header itself in lower case if it is unknown."""
    header = header.lower().strip()
    if header in _NAME_OF:
        return _NAME_OF[header]
    for name in _NAME_INSIDE:
        if name in header:
            return name
    return "findings" if _TITLE.search(header) else header
