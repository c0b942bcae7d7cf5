"""Generate a phantom patient: anatomy, studies, images and reports."""

from dataclasses import dataclass

import numpy as np

from medunifier.phantom.anatomy import draw_anatomy
from medunifier.phantom.findings import draw_device, draw_findings
from medunifier.phantom.frontal import render_frontal
from medunifier.phantom.image_files import jpeg
from medunifier.phantom.lateral import render_lateral
from medunifier.phantom.report_files import Report, write_report
from medunifier.phantom.reports import Facts

FRONTAL = ("PA", "AP")
LATERAL = ("LATERAL", "LL", "SWIMMERS", "XTABLE LATERAL")
DECUBITUS = ("AP LLD", "AP RLD", "PA LLD", "PA RLD")
RARE = ("LAO", "RAO", "LPO", "RPO", "AP AXIAL", *DECUBITUS, "SWIMMERS", "XTABLE LATERAL", "")
STUDIES_PER_PATIENT = {1: 0.65, 2: 0.25, 3: 0.10}
PORTABLE, SECOND_FRONTAL, WITH_LATERAL, WITH_RARE = 0.3, 0.12, 0.35, 0.03  # probabilities


@dataclass(frozen=True)
class Radiograph:
    """One radiograph: its view as in ViewPosition ("" if blank) and its JPEG file."""

    view: str
    jpg: bytes


@dataclass(frozen=True)
class Study:
    """One study: what it shows, its report, and its images."""

    facts: Facts
    report: Report
    radiographs: tuple[Radiograph, ...]


def generate_patient(seed: int, patient: int, image_size: int) -> tuple[Study, ...]:
    """Generate the studies of patient number `patient`; they depend on the three arguments only."""
    base = [seed, patient]
    rng = np.random.default_rng(base)
    anatomy = draw_anatomy(rng)
    count = int(rng.choice(list(STUDIES_PER_PATIENT), p=list(STUDIES_PER_PATIENT.values())))
    studies = []
    for number in range(count):
        rng = np.random.default_rng([*base, number + 1])
        portable = bool(rng.random() < PORTABLE)
        facts = Facts(anatomy, draw_findings(rng), draw_device(rng, portable), portable)
        report = write_report(facts, rng)
        views = _views(rng, portable)
        radiographs = tuple(
            Radiograph(view, jpeg(render_view(facts, view, [*base, number + 1, index + 1], image_size)))
            for index, view in enumerate(views)
        )
        studies.append(Study(facts, report, radiographs))
    return tuple(studies)


def render_view(facts: Facts, view: str, key: list[int], size: int) -> np.ndarray:
    """Render one image of a study, uint8 [size, size]; oblique, axial and blank views are rendered as frontal."""
    if view in LATERAL:
        return render_lateral(facts.anatomy, facts.findings, key, size)
    image = render_frontal(facts.anatomy, facts.findings, facts.device, facts.portable, key, size)
    if view in DECUBITUS:  # left lateral decubitus: the patient's left, right in the image, is down
        return np.rot90(image, -1 if view.endswith("LLD") else 1)
    return image


def _views(rng: np.random.Generator, portable: bool) -> list[str]:
    """Draw the views of a study."""
    frontal = "AP" if portable else "PA"
    views = [frontal]
    if rng.random() < SECOND_FRONTAL:
        views.append(frontal)
    if not portable and rng.random() < WITH_LATERAL:
        views.append("LATERAL" if rng.random() < 0.7 else "LL")
    if rng.random() < WITH_RARE:
        views.append(str(rng.choice(RARE)))
    return views
