"""The page's sections on generated reports: scores, samples, and what they do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medunifier.metrics.report_scores import Variety
from medunifier.report import tables
from medunifier.report.page import decimals
from medunifier.report.sections import FROM_LABELS, withheld
from medunifier.report.tables import Metrics
from medunifier.runtime.params import WriteReports


def reports_section(
    variant: str,
    dataset: str,
    metrics: Metrics,
    samples: Sequence[Mapping[str, Any]] | None,
    decoding: WriteReports,
    from_labels: bool,
) -> dict[str, Any]:
    """Return scores and samples of the reports that one variant generated for one data set.

    Args:
        variant: its name.
        dataset: the data set.
        metrics: flat metrics of write_reports.
        samples: generated reports beside their references; None: left out, since the data set is private.
        decoding: how the tokens were chosen.
        from_labels: the reference texts are written from labels.
    """
    number = metrics["n_written"]
    gain = tables.row(metrics, "bleu_4_gain", "")
    margin = ""
    if gain is not None and gain.low is not None and gain.high is not None:
        margin = (
            f" The model’s BLEU-4 minus that of the constant baseline is {decimals(gain.value, 1)} "
            f"({decimals(gain.low, 1)} to {decimals(gain.high, 1)})."
        )
    return {
        "heading": f"Variant {variant} on {dataset}",
        "caption": f"{number} reports generated {_decoding(decoding)} for test images of {dataset} and scored against the "
        f"reference reports, n = {number} for every metric. The constant baseline is the one training report that "
        f"scores best for all images; the nearest-neighbour baseline is the training report most similar to the image.{margin}{_variety(metrics)}"
        f"{_no_cider(metrics)}{FROM_LABELS if from_labels else ''}",
        "systems": list(tables.SYSTEMS.values()),
        "groups": tables.report_groups(metrics),
        "warning": _collapse(metrics),
        "samples": samples or [],
        "withheld": withheld(dataset, "Sample reports", f"results/reports/{variant}-{dataset}/")
        if samples is None
        else "",
        "sampling": f"{len(samples or [])} of the {number} reports, evenly spaced through the table and not chosen by "
        "quality. Wording of three words or more that both share is shaded.",
    }


def _variety(metrics: Metrics) -> str:
    if "n_distinct" not in metrics:
        return ""
    return (
        f" {metrics['n_distinct']} of the generated reports are distinct, {metrics['reference_n_distinct']} of the "
        "reference reports."
    )


def _no_cider(metrics: Metrics) -> str:
    if "cider" in metrics or "bleu_1" not in metrics:
        return ""
    return " CIDEr is left out: it needs several references that differ, from which words get their weights."


def _collapse(metrics: Metrics) -> str:
    """Return the warning that generated reports are all alike, or an empty text."""
    if "n_distinct" not in metrics:
        return ""
    generated, references = (Variety.read(metrics, prefix) for prefix in ("", "reference_"))
    warning = generated.collapse(references)
    return f"Take care: {warning}." if warning else ""


def _decoding(decoding: WriteReports) -> str:
    if decoding.num_beams > 1:
        return f"with {decoding.num_beams} beams"
    return "by sampling each token" if decoding.do_sample else "greedily"
