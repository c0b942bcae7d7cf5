"""The seven findings of the phantom: side, zone and severity, and how often they occur."""

from dataclasses import dataclass

import numpy as np

BENCHMARK = ("atelectasis", "cardiomegaly", "pneumonia", "edema", "pleural_effusion")
FINDINGS = (
    "atelectasis",
    "cardiomegaly",
    "consolidation",
    "edema",
    "pleural_effusion",
    "pneumonia",
    "pneumothorax",
)
DEVICES = ("none", "central line", "pacemaker")
ZONES = ("upper", "mid", "lower")

# Shares of all studies: no finding; exactly one of the five benchmark findings; one of the five together with a
# consolidation or pneumothorax; one of those two alone; two or three of the five.
STUDY_KINDS = {"normal": 0.20, "single": 0.52, "beside": 0.06, "other": 0.13, "several": 0.09}
UNCERTAIN = 0.06  # probability that the report calls a mild finding possible


@dataclass(frozen=True)
class Finding:
    """One finding, as it is rendered and reported.

    Attributes:
        name: one of FINDINGS.
        side: "right", "left" or "both" (the patient's); "none" for the heart.
        zone: one of ZONES; "none" where the finding has no zone.
        severity: 1 (small, mild), 2 (moderate) or 3 (large, severe).
        certain: False if the report calls it possible (label -1).
    """

    name: str
    side: str
    zone: str
    severity: int
    certain: bool = True

    def sides(self) -> tuple[str, ...]:
        """Return the affected lungs."""
        return {"both": ("right", "left"), "none": ()}.get(self.side, (self.side,))


def draw_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """Draw the findings of one study, in the order of FINDINGS."""
    kind = str(rng.choice(list(STUDY_KINDS), p=list(STUDY_KINDS.values())))
    names: list[str] = []
    if kind in ("single", "beside"):
        names.append(str(rng.choice(BENCHMARK)))
    if kind in ("beside", "other"):
        names.append(str(rng.choice(("consolidation", "pneumothorax"))))
    if kind == "several":
        count = 2 if rng.random() < 0.75 else 3
        names.extend(str(name) for name in rng.choice(BENCHMARK, size=count, replace=False))
    return tuple(draw_finding(rng, name) for name in FINDINGS if name in names)


def draw_finding(rng: np.random.Generator, name: str) -> Finding:
    """Draw side, zone, severity and certainty of the finding `name`."""
    one_side = str(rng.choice(("right", "left")))
    one_or_both = "both" if rng.random() < 0.25 else one_side
    severity = int(rng.choice((1, 2, 3), p=(0.35, 0.40, 0.25)))
    side, zone = {
        "atelectasis": (one_or_both, "lower" if rng.random() < 0.8 else "mid"),
        "cardiomegaly": ("none", "none"),
        "consolidation": (one_side, str(rng.choice(ZONES))),
        "covid_19": ("both", "none"),
        "edema": ("both", "none"),
        "pleural_effusion": (one_or_both, "lower"),
        "pneumonia": (one_or_both, str(rng.choice(ZONES, p=(0.35, 0.40, 0.25)))),
        "pneumothorax": (one_side, "upper"),
    }[name]
    hedged = rng.random() < UNCERTAIN and name != "cardiomegaly"
    return Finding(name, side, zone, 1 if hedged else severity, certain=not hedged)


def draw_device(rng: np.random.Generator, portable: bool) -> str:
    """Draw a device in or on the patient; portable images show more of them."""
    chance = 0.35 if portable else 0.12
    return str(rng.choice(DEVICES[1:])) if rng.random() < chance else "none"
