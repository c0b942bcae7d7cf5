"""Train the finding classifier on a data set, and measure its quality on real images."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from medunifier.image_scoring.finding_classifier import (
    FindingClassifier,
    fit_finding_classifier,
    standardize,
)
from medunifier.image_scoring.labels import SIDES, finding_labels, on_side, single_finding
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_counts, bootstrap_means
from medunifier.metrics.classification import auroc

Metrics = dict[str, float | int]


def train_finding_classifier(train: pl.DataFrame, thumbnails: np.ndarray) -> FindingClassifier:
    """Train a classifier of findings, and of findings on each side, on real training images.

    Args:
        train: the images' rows of the prepared table, n.
        thumbnails: [n, D].
    """
    names, labels = finding_labels(train)
    return fit_finding_classifier(standardize(thumbnails), labels, names)


def known_findings(classifier: FindingClassifier) -> list[str]:
    """Return the findings of a classifier, without those on one side."""
    return [name for name in classifier.names if not name.endswith(tuple(f"_{side}" for side in SIDES))]


def knows_sides(classifier: FindingClassifier, finding: str) -> bool:
    """Return whether the classifier has learnt the finding on both sides."""
    return all(on_side(finding, side) in classifier.names for side in SIDES)


def classifier_quality(
    classifier: FindingClassifier,
    test: pl.DataFrame,
    thumbnails: np.ndarray,
    prompted: Sequence[str],
    options: BootstrapOptions,
) -> Metrics:
    """Measure the classifier on real test images, in percent: the scale for its results on generated ones.

    judge_auroc           mean over findings, and of each finding
    judge_accuracy        the task of the prompts, on images that show exactly one of the prompted findings
    judge_side_accuracy   left or right, of a prompted finding that is present on one side

    Args:
        classifier: trained on other images.
        test: the images' rows of the prepared table, n.
        thumbnails: [n, D].
        prompted: the findings of the prompts; without any only `judge_auroc` is measured.
        options: of the bootstrap, with the patients as clusters.
    """
    names, labels = finding_labels(test)
    evidence = classifier.evidence(standardize(thumbnails))
    metrics = mean_auroc("judge_auroc", classifier, evidence, names, labels, options)
    if not prompted:
        return metrics
    shown = single_finding(labels, names, prompted)
    rows = np.flatnonzero(shown >= 0)
    if len(rows):
        hits = evidence[rows][:, classifier.columns(prompted)].argmax(1) == shown[rows]
        (interval,) = bootstrap_means(hits[:, None], options.take(rows))
        metrics |= interval.flat("judge_accuracy", scale=100)
    return metrics | _side_accuracy(classifier, evidence, names, labels, prompted, options)


def _side_accuracy(
    classifier: FindingClassifier,
    evidence: np.ndarray,
    names: Sequence[str],
    labels: np.ndarray,
    prompted: Sequence[str],
    options: BootstrapOptions,
) -> Metrics:
    """Measure left against right over all prompted findings; an image counts once for each of its findings."""
    hits, rows = [], []
    for finding in prompted:
        if not knows_sides(classifier, finding):
            continue
        sides = [on_side(finding, side) for side in SIDES]
        present = labels[:, [names.index(name) for name in sides]]
        one_side = np.flatnonzero((present.min(1) == 0) & (present.max(1) == 1))
        answers = evidence[:, classifier.columns(sides)]
        hits += (answers[one_side].argmax(1) == present[one_side].argmax(1)).tolist()
        rows += one_side.tolist()
    if not hits:
        return {}
    (interval,) = bootstrap_means(np.array(hits)[:, None], options.take(np.array(rows)))
    return interval.flat("judge_side_accuracy", scale=100)


def mean_auroc(
    name: str,
    classifier: FindingClassifier,
    evidence: np.ndarray,
    names: Sequence[str],
    labels: np.ndarray,
    options: BootstrapOptions,
) -> Metrics:
    """Return `NAME`, the mean AUROC over findings with its interval, and `NAME_FINDING`, in percent.

    Findings on one side are left out, and findings with fewer than two images in a class.

    Args:
        name: first part of the metrics' names.
        classifier: whose columns `evidence` has.
        evidence: float [n, C].
        names: of the columns of `labels`.
        labels: int [n, names]: 1 present, 0 absent, -1 unknown.
        options: of the bootstrap over images.
    """
    findings = [
        f
        for f in known_findings(classifier)
        if min((labels[:, names.index(f)] == value).sum() for value in (0, 1)) >= 2
    ]
    if not findings:
        return {}
    columns, own = classifier.columns(findings), labels[:, [names.index(f) for f in findings]]

    def score(counts: np.ndarray) -> np.ndarray:
        each = [
            auroc(evidence[:, column], own[:, i] == 1, counts * (own[:, i] >= 0))
            for i, column in enumerate(columns)
        ]
        return np.stack([np.mean(each, axis=0), *each], axis=-1)

    mean, *each = bootstrap_counts(score, len(evidence), options)
    return mean.flat(name, scale=100) | {
        f"{name}_{finding}": 100 * interval.value for finding, interval in zip(findings, each, strict=True)
    }
