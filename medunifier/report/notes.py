"""How to read the report page: what its values depend on, and what they do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INTERVALS = (
    "Confidence intervals are 95 % percentile bootstrap intervals over the test patients (of calibration errors, the "
    "same mirrored at the value, since chance only ever adds to them). They say how far another draw of patients "
    "could move a value, not another training run: each variant was pre-trained once, with {}."
)
MEANS = (
    "Rows of the paper’s tables named “mean of … seeds” are means over trainings that differ in nothing but the seed. "
    "“sd” is the standard deviation between them: how far another training run could move a value."
)
AVERAGE_PRECISION = (
    "mAP@K divides the summed precisions by min(K, number of relevant candidates); the authors’ definition divides by "
    "the hits within K and is higher, for chance as well. Compare each only with its own chance level."
)
WORD_OVERLAP = (
    "Word overlap is no clinical correctness: reports resemble each other, so a constant report scores well. Read a "
    "model’s score as its distance from that baseline."
)
FID = "FID is given with torch-fidelity’s Inception weights."
NO_FID = (
    "There is no FID: it needs torch-fidelity’s Inception weights (score_images.inception_weights names no file). The "
    "Fréchet distance in the frozen encoder’s features is a distance of its own, not to be compared with any FID; "
    "validation images give it a scale."
)


@dataclass(frozen=True)
class Reading:
    """What the notes depend on."""

    preset: str
    phantoms: Sequence[str]  # names of the synthetic data sets
    training_seeds: Sequence[int]  # of the variants' pre-training, each once
    has_means: bool  # the tables have rows for means over trainings
    evaluation_seeds: Mapping[
        str, int
    ]  # name of an evaluation -> seeds its values are means over; 0: not run
    has_fid: bool
    has_retrieval: bool
    has_reports: bool


def notes(page: Reading) -> list[str]:
    """Return what a reader must know to take the values for what they are, one sentence or two each."""
    found = []
    if page.phantoms:
        found.append(
            f"{', '.join(page.phantoms)}: synthetic data. Procedural images with generated reports, made to exercise "
            "the pipeline; nothing here says anything about patients, and the values cannot be compared with "
            "published ones."
        )
    seeds = ", ".join(map(str, page.training_seeds))
    found.append(
        INTERVALS.format(f"{'seed' if len(page.training_seeds) == 1 else 'one of the seeds'} {seeds}")
    )
    if page.has_means:
        found.append(MEANS)
    if several := [f"{number} in {name}" for name, number in page.evaluation_seeds.items() if number > 1]:
        found.append(
            f"Some values are means over seeds, {', '.join(several)}; each seed draws its own training part or its own "
            "sentences. “sd” is the standard deviation between them."
        )
    if page.has_retrieval:
        found.append(AVERAGE_PRECISION)
    if page.has_reports:
        found.append(WORD_OVERLAP)
    found.append(FID if page.has_fid else NO_FID)
    found.append(f"Everything was computed with the parameters of configuration {page.preset} (params.yaml).")
    return found
