"""The sentences of phantom reports: a limited vocabulary, each sentence with the labels that it implies.

Every fact has one usual wording and one or two alternatives; the order of facts is nearly always the same.
So a model can learn the report from the image, although reports vary.
"""

from dataclasses import dataclass, field

import numpy as np

from medunifier.phantom.anatomy import Anatomy
from medunifier.phantom.findings import Finding

USUAL = 0.8  # probability of a fact's usual wording
ODD_ORDER = 0.06  # probability that lungs and pleura come before the heart

LABELS = {  # finding -> column of the official label files
    "atelectasis": "Atelectasis",
    "cardiomegaly": "Cardiomegaly",
    "consolidation": "Consolidation",
    "edema": "Edema",
    "pleural_effusion": "Pleural Effusion",
    "pneumonia": "Pneumonia",
    "pneumothorax": "Pneumothorax",
}
GRADES = {1: "mild", 2: "moderate", 3: "severe"}
SIZES = {1: "small", 2: "moderate", 3: "large"}
OTHER_SIDE = {"right": "left", "left": "right"}
IN_LUNG_TISSUE = ("atelectasis", "consolidation", "edema", "pneumonia")

VOLUME_WORDINGS = {
    "low": ("Lung volumes are low.", "The lung volumes are reduced."),
    "normal": ("The lungs are well expanded.", "Lung volumes are normal."),
    "high": ("The lungs are hyperinflated.", "Lung volumes are increased."),
}
DEVICE_WORDINGS = {
    "central line": "A right central venous catheter ends in the superior vena cava.",
    "pacemaker": "A left pacemaker is in place.",
}
# {degree} is a grade or a size, {where} a region of the lungs, {side} a side.
FINDING_WORDINGS = {
    "atelectasis": (
        "There is {degree} linear atelectasis in the {where}.",
        "{degree} linear atelectasis is seen in the {where}.",
    ),
    "cardiomegaly": ("The heart is {degree}ly enlarged.", "There is {degree} cardiomegaly."),
    "consolidation": (
        "There is a {degree} dense consolidation in the {where}.",
        "A {degree} consolidation with air bronchograms is seen in the {where}.",
    ),
    "edema": (
        "There is {degree} pulmonary edema with bilateral perihilar haze.",
        "{degree} pulmonary edema is present.",
    ),
    "pleural_effusion": (
        "There is a {degree} {side} pleural effusion.",
        "A {degree} {side} pleural effusion is present.",
    ),
    "pneumonia": (
        "There is {degree} patchy pneumonia in the {where}.",
        "Patchy opacity in the {where} is consistent with {degree} pneumonia.",
    ),
    "pneumothorax": (
        "There is a {degree} {side} pneumothorax.",
        "A {degree} {side} pneumothorax is present.",
    ),
}
HEDGED_WORDINGS = {
    "atelectasis": ("There is possible mild atelectasis in the {where}.",),
    "consolidation": ("There is a possible small consolidation in the {where}.",),
    "edema": ("There is possible mild pulmonary edema.",),
    "pleural_effusion": ("There is a possible small {side} pleural effusion.",),
    "pneumonia": (
        "There is possible mild pneumonia in the {where}.",
        "Patchy opacity in the {where} may represent pneumonia.",
    ),
    "pneumothorax": ("There is a possible small {side} pneumothorax.",),
}
IMPRESSION_WORDINGS = {
    "atelectasis": "{degree} atelectasis in the {where}.",
    "cardiomegaly": "{degree} cardiomegaly.",
    "consolidation": "{degree} consolidation in the {where}.",
    "edema": "{degree} pulmonary edema.",
    "pleural_effusion": "{degree} {side} pleural effusion.",
    "pneumonia": "{degree} pneumonia in the {where}.",
    "pneumothorax": "{degree} {side} pneumothorax.",
}


@dataclass(frozen=True)
class Sentence:
    """A sentence and its labels: 1 present, 0 absent, -1 uncertain."""

    text: str
    labels: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """Everything that a study shows."""

    anatomy: Anatomy
    findings: tuple[Finding, ...]
    device: str
    portable: bool


def findings_section(facts: Facts, rng: np.random.Generator) -> list[Sentence]:
    """Write the findings: volumes, heart, aorta, lungs, pleura, spine, stomach, devices."""
    present = {finding.name: finding for finding in facts.findings}
    heart = [Sentence(_pick(rng, VOLUME_WORDINGS[facts.anatomy.volume]))]
    if "cardiomegaly" in present:
        heart.append(_present(rng, present["cardiomegaly"]))
    else:
        wording = _pick(rng, ("The heart is normal in size.", "Heart size is normal."))
        heart.append(Sentence(wording, {"Cardiomegaly": 0}))
    if facts.anatomy.tortuous_aorta:
        heart.append(Sentence(_pick(rng, ("The aorta is tortuous.", "The thoracic aorta is tortuous."))))
    else:
        wording = _pick(rng, ("The mediastinal contours are normal.", "The mediastinum is unremarkable."))
        heart.append(Sentence(wording, {"Enlarged Cardiomediastinum": 0}))
    chest = _lungs(present, rng) + _pleura(present, rng)
    sentences = chest + heart if rng.random() < ODD_ORDER else heart + chest
    if facts.anatomy.scoliosis:
        sentences.append(
            Sentence(_pick(rng, ("There is scoliosis of the thoracic spine.", "The spine is scoliotic.")))
        )
    if facts.anatomy.gastric_bubble:
        sentences.append(
            Sentence(_pick(rng, ("Gas is seen in the stomach.", "There is a gastric air bubble.")))
        )
    if facts.device != "none":
        sentences.append(Sentence(DEVICE_WORDINGS[facts.device], {"Support Devices": 1}))
    return sentences


def impression_section(facts: Facts, rng: np.random.Generator) -> list[Sentence]:
    """Write the impression: one statement for each finding, numbered if there are several."""
    if not facts.findings:
        wording = _pick(
            rng,
            ("No acute cardiopulmonary process.", "No evidence of pneumonia.", "Normal chest radiograph."),
        )
        return [Sentence(wording, {"Pneumonia": 0} if "pneumonia" in wording else {})]
    sentences = []
    for number, finding in enumerate(facts.findings, start=1):
        words = _words(finding)
        if not finding.certain:
            words["degree"] = f"possible {words['degree']}"
        text = _polish(IMPRESSION_WORDINGS[finding.name].format(**words))
        prefix = f"{number}. " if len(facts.findings) > 1 else ""
        sentences.append(Sentence(prefix + text, {LABELS[finding.name]: 1 if finding.certain else -1}))
    return sentences


def study_labels(sentences: list[Sentence]) -> dict[str, int]:
    """Return the labels of a report; a label that no sentence mentions is absent (blank).

    As in the CheXpert labeler (Irvin et al. 2019), positive outweighs uncertain, uncertain outweighs negative, and
    No Finding is 1 if nothing but devices is mentioned.
    """
    labels: dict[str, int] = {}
    weight = {0: 0, -1: 1, 1: 2}
    for sentence in sentences:
        for name, value in sentence.labels.items():
            if name not in labels or weight[value] > weight[labels[name]]:
                labels[name] = value
    if sentences and not any(value for name, value in labels.items() if name != "Support Devices"):
        labels["No Finding"] = 1
    return labels


def _lungs(present: dict[str, Finding], rng: np.random.Generator) -> list[Sentence]:
    """Write the sentences on the lungs."""
    mentioned = [present[name] for name in IN_LUNG_TISSUE if name in present]
    if not mentioned:
        wordings = ("The lungs are clear without focal consolidation.", "No focal consolidation is seen.")
        return [Sentence(_pick(rng, wordings), {"Consolidation": 0})]
    sentences = [_present(rng, finding) for finding in mentioned]
    if len(present) > 1:  # long enough
        return sentences
    side = mentioned[0].side
    if mentioned[0].name == "atelectasis" and mentioned[0].severity > 1:
        lifted = "Both hemidiaphragms are" if side == "both" else f"The {side} hemidiaphragm is"
        sentences.append(Sentence(f"{lifted} elevated."))
    if side in OTHER_SIDE:
        sentences.append(Sentence(f"The {OTHER_SIDE[side]} lung is clear."))
    if mentioned[0].name != "edema":
        sentences.append(Sentence("There is no pulmonary edema.", {"Edema": 0}))
    return sentences


def _pleura(present: dict[str, Finding], rng: np.random.Generator) -> list[Sentence]:
    """Write the sentences on the pleura."""
    names = ("pleural_effusion", "pneumothorax")
    sentences = [_present(rng, present[name]) for name in names if name in present]
    absent = [name for name in names if name not in present]
    if absent:
        missing = " or ".join(name.replace("_", " ") for name in absent)
        wording = _pick(rng, (f"There is no {missing}.", f"No {missing} is seen."))
        sentences.append(Sentence(wording, {LABELS[name]: 0 for name in absent}))
    return sentences


def _present(rng: np.random.Generator, finding: Finding) -> Sentence:
    """Write the sentence on a finding; the word "opacity" implies the label Lung Opacity, too."""
    wordings = (FINDING_WORDINGS if finding.certain else HEDGED_WORDINGS)[finding.name]
    text = _polish(_pick(rng, wordings).format(**_words(finding)))
    labels = {LABELS[finding.name]: 1 if finding.certain else -1}
    return Sentence(text, labels | ({"Lung Opacity": 1} if "opacity" in text else {}))


def _words(finding: Finding) -> dict[str, str]:
    """Return the words for the placeholders of a wording."""
    sized = finding.name in ("consolidation", "pleural_effusion", "pneumothorax")
    where = f"both {finding.zone} lungs" if finding.side == "both" else f"{finding.side} {finding.zone} lung"
    side = "bilateral" if finding.side == "both" else finding.side
    return {"degree": (SIZES if sized else GRADES)[finding.severity], "where": where, "side": side}


def _polish(text: str) -> str:
    """Return the sentence with a capital letter, and in the plural for bilateral effusions."""
    if "bilateral pleural effusion" in text:
        text = text.replace("There is a ", "There are ").replace("effusion is", "effusions are")
        text = text.removeprefix("A ").replace("effusion.", "effusions.")
    return text[0].upper() + text[1:]


def _pick(rng: np.random.Generator, wordings: tuple[str, ...]) -> str:
    """Draw the first, usual wording, or one of the others."""
    if len(wordings) == 1 or rng.random() < USUAL:
        return wordings[0]
    return wordings[1 + int(rng.integers(len(wordings) - 1))]
