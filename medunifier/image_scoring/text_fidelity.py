"""Fidelity of generated images to the texts that they were generated from: prompts and test reports."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from medunifier.image_scoring import classifier_quality as quality
from medunifier.image_scoring import prompt_fidelity as fidelity
from medunifier.image_scoring.finding_classifier import FindingClassifier
from medunifier.metrics.bootstrap import BootstrapOptions


def text_fidelity(
    classifier: FindingClassifier,
    test: pl.DataFrame,
    prompts: pl.Series,
    source_ids: pl.Series,
    thumbnails: Mapping[str, np.ndarray],
    options: BootstrapOptions,
) -> quality.Metrics:
    """Measure fidelity to prompts and to reports, and the classifier's own quality on real test images.

    Args:
        classifier: trained on real training images.
        test: prepared rows of the test images.
        prompts: the prompt of each image of the set `prompts`.
        source_ids: the test image whose report each image of the set `reports` was generated from.
        thumbnails: [n, D] each, of the test images (`test`) and of the generated sets `prompts`, `reports` and
            `unconditional`.
        options: of the bootstrap over images; test images are resampled by patient.

    Returns:
        `prompts_drawn` (images of prompts), `prompts_judged` (those with one finding that the classifier knows), and
        the metrics of `classifier_quality`, `prompt_fidelity` and `report_fidelity`.
    """
    prompted = fidelity.read_prompted_findings(prompts.to_list(), classifier)
    metrics: quality.Metrics = {"prompts_judged": len(prompted.rows), "prompts_drawn": len(prompts)}
    by_patient = options.with_clusters(test["patient_id"].to_list())
    metrics |= quality.classifier_quality(classifier, test, thumbnails["test"], prompted.findings, by_patient)
    if prompted.findings:
        generated, unconditional = thumbnails["prompts"][prompted.rows], thumbnails["unconditional"]
        metrics |= fidelity.prompt_fidelity(classifier, prompted, generated, unconditional, options)
    sources = source_ids.to_frame("image_id").join(test, on="image_id", how="left", maintain_order="left")
    return metrics | fidelity.report_fidelity(classifier, sources, thumbnails["reports"], options)
