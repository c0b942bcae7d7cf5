"""Findings that a text mentions, and their side, by a rule that works for any data set.

The rule. A text is cut into sentences, and a sentence into clauses (at commas, "and", "or", "with", "but").
A finding is mentioned where one of its names stands (`NAMES`, `NARROWER`) and no word of negation stands before it in the
sentence; "but", "however" and "there is" end a negation. Its side is that of the clause: left, right, or both
("bilateral", "both", "left and right", "right greater than left"). A finding that is mentioned on the left in one
clause and on the right in another is on both sides. A side that the clause does not name stays unknown. Uncertain
mentions ("possible left effusion") count: whether a finding is certain is for the labels to say.
"""

import re
from functools import cache

# Words for findings, by the name of their label (CheXpert's); a label that is not here goes by its own name.
NAMES = {
    "atelectasis": r"atelecta\w+|collapse",
    "cardiomegaly": r"cardiomegaly|heart (?:is|size is|appears) (?:\w+ ){0,2}enlarged|enlarged (?:heart|cardiac)"
    r"|(?:cardiac (?:silhouette|size)|heart) (?:is |size )*(?:\w+ ){0,2}enlarged",
    "consolidation": r"consolidations?",
    "edema": r"o?edema|vascular congestion",
    "enlarged_cardiomediastinum": r"(?:widened|enlarged) (?:cardio)?mediastinum|mediastin\w+ (?:is )?(?:widen\w+|enlarge\w+)",
    "fracture": r"fractures?",
    "lung_lesion": r"nodules?|mass(?:es)?|lesions?",
    "lung_opacity": r"opacit(?:y|ies)|opacifications?|infiltrates?",
    "pleural_effusion": r"effusions?|pleural fluid",
    "pleural_other": r"pleural (?:thickening|scarring|plaques?)",
    "pneumonia": r"pneumonias?",
    "pneumothorax": r"pneumothora(?:x|ces)",
}
# The same for labels of other data sets (NIH ChestX-ray14, Kermany's), which overlap with those above: a nodule is a
# lung lesion.
NARROWER = {
    "bacterial_pneumonia": r"bacterial pneumonias?",
    "emphysema": r"emphysema",
    "fibrosis": r"fibros[ie]s|fibrotic",
    "hernia": r"hernias?",
    "infiltration": r"infiltrat(?:es?|ions?)",
    "mass": r"mass(?:es)?",
    "nodule": r"nodules?",
    "pleural_thickening": r"pleural thickening",
    "viral_pneumonia": r"viral pneumonias?",
}
_SIDES = r"(left|right)(?:[- ]sided)?"
_BOTH = re.compile(
    rf"\b{_SIDES}[ ,]*(?:and|or|greater than|more than|less than|worse than|>|<)(?: the)? {_SIDES}\b"
)
_CLAUSES = re.compile(r", | and | or | with | but | as well as ")
_SENTENCES = re.compile(r"[.;:!?]\s+|[.;:!?]$|\n")
_NEGATION = re.compile(
    r"\b(?:no|not|without|free of|clear of|negative for|absence of|absent|resolved|resolution of|denies|rule out)\b"
)
_END_OF_NEGATION = re.compile(r"\b(?:but|however|although|there (?:is|are)(?! no\b))\b")


def findings_mentioned(text: str, findings: tuple[str, ...]) -> dict[str, str | None]:
    """Return those of `findings` that a text mentions, each with its side.

    Args:
        text: A report, or a prompt.
        findings: Names of labels without `label_`.

    Returns:
        Finding -> `left`, `right`, `both`, or None where the side is not mentioned.
    """
    found: dict[str, set[str]] = {}
    for sentence in _SENTENCES.split(text.lower()):
        sentence = _BOTH.sub("bilateral", " ".join(sentence.split()))
        place = 0
        for clause in _CLAUSES.split(sentence):
            start = sentence.index(clause, place)
            place = start + len(clause)
            sides = _sides(clause)
            for finding in findings:
                mention = _pattern(finding).search(clause)
                if mention and not _negated(sentence[: start + mention.start()]):
                    found.setdefault(finding, set()).update(sides)
    return {finding: _side(sides) for finding, sides in found.items()}


def _sides(clause: str) -> set[str]:
    found = set(re.findall(r"\b(left|right)\b", clause))
    return {"left", "right"} if re.search(r"\b(?:bilateral(?:ly)?|both)\b", clause) else found


def _side(sides: set[str]) -> str | None:
    return "both" if len(sides) == 2 else next(iter(sides), None)


def _negated(before: str) -> bool:
    ends = [match.end() for match in _END_OF_NEGATION.finditer(before)]
    return _NEGATION.search(before, ends[-1] if ends else 0) is not None


@cache
def _pattern(finding: str) -> re.Pattern:
    words = (NAMES | NARROWER).get(finding) or re.escape(finding.replace("_", " "))
    return re.compile(rf"\b(?:{words})\b")
