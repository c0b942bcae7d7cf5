"""Prompt fidelity: how often a finding classifier recognises the prompted finding in a generated image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from medunifier.image_scoring.classifier_quality import Metrics, known_findings, knows_sides, mean_auroc
from medunifier.image_scoring.finding_classifier import FindingClassifier, chance_level, standardize
from medunifier.image_scoring.labels import SIDES, finding_labels, on_side
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means
from medunifier.metrics.mentions import findings_mentioned


@dataclass(frozen=True)
class PromptedFindings:
    """Findings of prompts, for the n images whose prompt mentions exactly one finding that the classifier knows.

    Attributes:
        rows: numbers of these images among all, int64 [n].
        findings: the distinct prompted findings.
        finding: index into `findings`, int64 [n].
        sides: 0 left, 1 right, -1 no single side mentioned or not known to the classifier, int64 [n].
    """

    rows: np.ndarray
    findings: tuple[str, ...]
    finding: np.ndarray
    sides: np.ndarray


def read_prompted_findings(prompts: Sequence[str], classifier: FindingClassifier) -> PromptedFindings:
    """Return findings and sides that the prompts mention, by the rule of `findings_mentioned`."""
    known = tuple(known_findings(classifier))
    mentioned = {prompt: findings_mentioned(prompt, known) for prompt in dict.fromkeys(prompts)}
    findings = tuple(f for f in known if any(list(found) == [f] for found in mentioned.values()))
    rows, finding, sides = [], [], []
    for row, prompt in enumerate(prompts):
        if len(mentioned[prompt]) != 1:
            continue
        ((name, side),) = mentioned[prompt].items()
        rows.append(row)
        finding.append(findings.index(name))
        sides.append(SIDES.index(side) if side in SIDES and knows_sides(classifier, name) else -1)
    return PromptedFindings(np.array(rows, int), findings, np.array(finding, int), np.array(sides, int))


def prompt_fidelity(
    classifier: FindingClassifier,
    prompted: PromptedFindings,
    generated: np.ndarray,
    unconditional: np.ndarray,
    options: BootstrapOptions,
) -> Metrics:
    """Measure how often the classifier recognises in an image what its prompt says, in percent.

    prompt_fidelity           the finding, among all prompted findings; also for each finding
    prompt_fidelity_side      left or right, of the prompted finding
    prompt_fidelity_both      finding and side together, among all prompted pairs

    Each comes with `_chance` (answers independent of the prompts), `_unconditional` (the same prompts against
    images generated without a text) and `_gain`, the difference of the two, paired image by image.

    Args:
        classifier: trained on real images.
        prompted: what the prompts say, n images.
        generated: thumbnails of the images `prompted.rows`, [n, D].
        unconditional: thumbnails of images generated without a text, [m, D].
        options: of the bootstrap over images, without clusters.
    """
    partner = np.arange(len(generated)) % len(unconditional)
    evidence = (
        classifier.evidence(standardize(generated)),
        classifier.evidence(standardize(unconditional))[partner],
    )
    metrics: Metrics = {"prompt_fidelity_findings": len(prompted.findings)}

    columns = classifier.columns(prompted.findings)
    answers = [side[:, columns].argmax(1) for side in evidence]
    metrics |= _compared("prompt_fidelity", prompted.finding, answers, partner, options)
    for number, finding in enumerate(prompted.findings):
        own = prompted.finding == number
        (interval,) = bootstrap_means((answers[0] == number)[own][:, None], options)
        metrics |= interval.flat(f"prompt_fidelity_{finding}", scale=100)

    sided = np.flatnonzero(prompted.sides >= 0)
    if len(sided):
        pairs = [
            classifier.columns([on_side(prompted.findings[number], side) for side in SIDES])
            for number in prompted.finding[sided]
        ]
        answers = [np.take_along_axis(side[sided], np.array(pairs), 1).argmax(1) for side in evidence]
        metrics |= _compared("prompt_fidelity_side", prompted.sides[sided], answers, partner[sided], options)

    names = [
        on_side(prompted.findings[number], SIDES[side]) if side >= 0 else prompted.findings[number]
        for number, side in zip(prompted.finding, prompted.sides, strict=True)
    ]
    classes = sorted(set(names))
    answers = [side[:, classifier.columns(classes)].argmax(1) for side in evidence]
    expected = np.array([classes.index(name) for name in names])
    return metrics | _compared("prompt_fidelity_both", expected, answers, partner, options)


def _compared(
    name: str,
    expected: np.ndarray,
    answers: Sequence[np.ndarray],
    partner: np.ndarray,
    options: BootstrapOptions,
) -> Metrics:
    """Return the metrics of the answers on images generated from the prompts and on unconditional ones, [n] each."""
    generated, unconditional = answers
    hits = np.stack([generated == expected, unconditional == expected], axis=1).astype(float)
    # an unconditional image that is compared with several prompts is one cluster
    intervals = bootstrap_means(np.c_[hits, hits[:, 0] - hits[:, 1]], options.with_clusters(partner.tolist()))
    metrics: Metrics = {f"{name}_chance": 100 * chance_level(expected, generated)}
    for suffix, interval in zip(("", "_unconditional", "_gain"), intervals, strict=True):
        metrics |= interval.flat(name + suffix, scale=100)
    return metrics


def report_fidelity(
    classifier: FindingClassifier, sources: pl.DataFrame, generated: np.ndarray, options: BootstrapOptions
) -> Metrics:
    """Measure whether images generated from test reports show the findings of these reports.

    Args:
        classifier: trained on real images.
        sources: rows of the prepared table whose reports the images were generated from, n.
        generated: thumbnails of the images, [n, D].
        options: of the bootstrap over images.

    Returns:
        `report_fidelity_auroc` in percent: the mean over findings of the AUROC of the classifier's evidence in the
        generated images, against the labels of the reports; also for each finding.
    """
    names, labels = finding_labels(sources)
    evidence = classifier.evidence(standardize(generated))
    return mean_auroc("report_fidelity_auroc", classifier, evidence, names, labels, options)
