"""Metrics of generated reports and their baselines: text overlap by image and by study, findings, clinical scorers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from medunifier.evaluation.report_generation import finding_labels
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.metrics.clinical_scorers import ItemScores, scale_of, score_reports
from medunifier.metrics.meteor import Meteor
from medunifier.metrics.report_scores import TextScores, Variety, finding_scores
from medunifier.metrics.text import PROTOCOLS, Protocol, r2gen_protocol, why_no_cider
from medunifier.runtime.params import WriteReports
from medunifier.storage.tables import FRONTAL
from medunifier.tracking import LocalRun

Metrics = dict[str, float | int]
Systems = Mapping[str, Sequence[str]]  # N reports by the prefix of their metrics; `` are the generated ones
FIELD = "report"  # the protocol whose metrics have no prefix, and by which studies are scored


def protocols_of(settings: WriteReports, training: pl.Series) -> dict[str, Protocol]:
    """Return the protocols by which reports are scored: the field's, the authors' and, where asked for, R2Gen's."""
    if settings.r2gen_min_count is None:
        return PROTOCOLS
    r2gen = r2gen_protocol(training, settings.r2gen_min_count, settings.r2gen_max_ids)
    return {**PROTOCOLS, "r2gen": r2gen}


def study_rows(test: pl.DataFrame) -> np.ndarray | None:
    """Return the row of one image for each study, int64 [studies]; None if no study has several images.

    It is the study's first frontal image, or its first image where none is frontal, or views are unknown.
    """
    rows = test.select("study_id", pl.col("view").is_in(FRONTAL).fill_null(False).alias("frontal"))
    chosen = (
        rows.with_row_index("row")
        .sort("frontal", descending=True, maintain_order=True)
        .unique("study_id", keep="first")["row"]
        .sort()
        .to_numpy()
    )
    return None if len(chosen) == len(test) else chosen.astype(np.int64)


def text_metrics(
    test: pl.DataFrame,
    systems: Systems,
    protocols: Mapping[str, Protocol],
    scorer: Meteor,
    options: BootstrapOptions,
    run: LocalRun,
) -> tuple[Metrics, TextScores]:
    """Compute text overlap times 100 with confidence intervals, for every system and protocol, by image and by study.

    Args:
        test: Test images, with `report` and `study_id`.
        systems: Their reports.
        protocols: Cleaning of texts, by name.
        scorer: METEOR's running Java program.
        options: How to resample, with the patients of `test` as clusters.
        run: Receives the reason where CIDEr is left out.

    Returns:
        The metrics, and the generated reports' scores by the field's protocol.
    """
    references = test["report"].to_list()
    scores = {
        (system, protocol): TextScores.of(*clean(references, reports), scorer)
        for system, reports in systems.items()
        for protocol, clean in protocols.items()
    }
    metrics: Metrics = {}
    for (system, protocol), found in scores.items():
        prefix = system + ("" if protocol == FIELD else f"{protocol}_")
        metrics |= _flat(found, prefix, options)
    gain = scores["", FIELD].bleu_4_gain(scores["constant_", FIELD], options)
    metrics |= gain.flat("bleu_4_gain", scale=100)
    cleaned, _ = protocols[FIELD](references, references)
    _log_no_cider(cleaned, "", run)

    rows = study_rows(test)
    if rows is not None:
        metrics["n_studies"] = len(rows)
        cleaned = [cleaned[int(row)] for row in rows]
        for system, reports in systems.items():
            _, chosen = protocols[FIELD]([], [reports[int(row)] for row in rows])
            of_studies = scores[system, FIELD].take(rows, cleaned, chosen)
            metrics |= _flat(of_studies, f"{system}study_", options.take(rows))
        _log_no_cider(cleaned, "study_", run)
    return metrics, scores["", FIELD]


def _flat(scores: TextScores, prefix: str, options: BootstrapOptions) -> Metrics:
    """Return all metrics of one system under one protocol, times 100."""
    metrics: Metrics = {}
    for name, interval in scores.intervals(options).items():
        metrics |= interval.flat(prefix + name, scale=100)
    return metrics


def _log_no_cider(references: Sequence[Sequence[str]], prefix: str, run: LocalRun) -> None:
    if reason := why_no_cider(references):
        run.log(f"{prefix}cider is left out: {reason}")


def variety_metrics(references: Sequence[str], systems: Systems, run: LocalRun) -> Metrics:
    """Count distinct reports of every system and of the references; log a warning if the generated ones collapsed."""
    expected = Variety.of(references)
    found = {system: Variety.of(reports) for system, reports in systems.items()}
    metrics = expected.flat("reference_")
    for system, variety in found.items():
        metrics |= variety.flat(system)
    if warning := found[""].collapse(expected):
        run.log(f"warning: {warning}")
    return metrics


def finding_metrics(
    test: pl.DataFrame, systems: Systems, options: BootstrapOptions
) -> tuple[Metrics, list[ItemScores]]:
    """Compute F1 of the findings that each system mentions, times 100; nothing where the data set has no labels.

    Returns:
        The metrics, and the generated reports' scores one by one.
    """
    findings, labels = finding_labels(test)
    if not findings:
        return {}, []
    found = {system: finding_scores(reports, findings, labels) for system, reports in systems.items()}
    metrics: Metrics = {}
    for system, scores in found.items():
        for each in scores:
            metrics |= each.interval(options).flat(system + each.metric, scale=100)
    return metrics, list(found[""])


def clinical_metrics(
    scorers: Mapping[Any, Any],
    references: Sequence[str],
    systems: Systems,
    options: BootstrapOptions,
    run: LocalRun,
    *,
    private: bool,
) -> tuple[Metrics, list[ItemScores]]:
    """Score every system by clinical scorers; `METRIC_gain` is the model's less that of the constant baseline, paired.

    Args:
        scorers: Those that `load_scorers` loaded, by name.
        references: N reference reports.
        systems: Their reports.
        options: How to resample.
        run: Receives a warning for each scorer that failed; its metrics are left out.
        private: Whether no message of a scorer may be logged, since it could hold report text.

    Returns:
        The metrics, and the generated reports' scores one by one.
    """
    metrics: Metrics = {}
    items: list[ItemScores] = []
    for name, scorer in scorers.items():
        run.log(f"score the reports by {name}")
        try:
            found = {
                system: score_reports(name, scorer, references, texts) for system, texts in systems.items()
            }
        except Exception as error:  # of code and weights that are not ours; the other metrics stay
            reason = type(error).__name__ if private else f"{type(error).__name__}: {error}"
            run.log(f"warning: {name} is left out: it failed on these reports ({reason})")
            continue
        for number, own in enumerate(found[""]):
            scale = scale_of(own.metric)
            for system, scores in found.items():
                metrics |= scores[number].interval(options).flat(system + own.metric, scale=scale)
            gain = own.interval(options, minus=found["constant_"][number])
            metrics |= gain.flat(f"{own.metric}_gain", scale=scale)
        items += found[""]
    return metrics, items
