"""Flat metrics (results/metrics/STAGE.json) as the rows of the page's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medunifier.metrics.clinical_scorers import titles

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One metric: its value with the 95 % interval, its baseline, and the number of items."""

    label: str
    value: float
    digits: int = 1
    unit: str = ""
    low: float | None = None
    high: float | None = None
    n: int | None = None
    baseline: float | None = None
    against: str = ""  # name of the baseline


def row(
    metrics: Metrics,
    name: str,
    label: str,
    *,
    digits: int = 1,
    unit: str = "",
    baseline: str = "",
    against: str = "",
) -> Row | None:
    """Return the row of metric `name` with its interval, n and baseline, or None where it was not measured.

    Args:
        metrics: flat metrics of a stage.
        name: of the metric.
        label: of the row.
        digits: decimals.
        unit: shown after the label.
        baseline: name of the metric to compare with.
        against: what the baseline is.
    """
    if name not in metrics:
        return None
    n = metrics.get(f"{name}_n")
    return Row(
        label,
        metrics[name],
        digits,
        unit,
        metrics.get(f"{name}_ci_low"),
        metrics.get(f"{name}_ci_high"),
        None if n is None else int(n),
        metrics.get(baseline),
        against if baseline in metrics else "",
    )


def present(rows: Sequence[Row | None]) -> list[Row]:
    """Return the rows that were measured."""
    return [found for found in rows if found is not None]


def retrieval_groups(metrics: Metrics, ks: Sequence[int]) -> list[tuple[str, list[Row]]]:
    """Return (heading, rows) for both directions of retrieval, each metric beside chance; in percent.

    The first ranking comes before the one by the matching head, where that was measured.
    """
    groups = []
    for matched, again in (("", ""), ("itm_", ", re-ranked by ITM")):
        for direction, heading in (
            ("i2t", "Image to report"),
            ("t2i", "Report to image"),
        ):
            rows = [
                row(metrics, name, label.format(k), baseline=f"{name}_chance")
                for kind, label in (
                    ("map", "mAP@{}"),
                    ("map_release", "mAP@{}, authors’"),
                    ("recall", "Recall@{}"),
                )
                for k in ks
                for name in (f"{matched}{direction}_{kind}_at_{k}",)
            ]
            groups.append((heading + again, present(rows)))
    return [group for group in groups if group[1]]


TEXT_METRICS = {
    "bleu_1": "BLEU-1, %",
    "bleu_2": "BLEU-2, %",
    "bleu_3": "BLEU-3, %",
    "bleu_4": "BLEU-4, %",
    "meteor": "METEOR, %",
    "rouge_l": "ROUGE-L, %",
    "cider": "CIDEr, no unit",
    "findings_f1_micro": "Findings mentioned, micro F1, %",
    "findings_f1_macro": "Findings mentioned, macro F1, %",
    **titles(),
    "distinct_share": "Distinct reports, % of all",
    "commonest_share": "The commonest report, % of all",
}
SYSTEMS = {"": "model", "nearest_": "nearest-neighbour baseline", "constant_": "constant baseline"}
PROTOCOLS = {
    "": "The field’s protocol: the whole report, lower-cased, is the one reference",
    "release_": "The authors’ protocol: each sentence of the reference is a reference of its own",
    "r2gen_": "R2Gen’s protocol: as the field’s, but references are cut and rare words are <unk>",
    "study_": "The field’s protocol with one image a study: its first frontal one",
}


def report_groups(metrics: Metrics) -> list[tuple[str, list[tuple[str, list[Row | None]]]]]:
    """Return (protocol, [(metric, its row for each of SYSTEMS)]) of the generated reports.

    All are in percent but CIDEr and RadCliQ, whose scales have no upper end.
    """
    groups = []
    for protocol, heading in PROTOCOLS.items():
        lines = [
            (label, [row(metrics, f"{system}{protocol}{name}", label) for system in SYSTEMS])
            for name, label in TEXT_METRICS.items()
        ]
        lines = [(label, rows) for label, rows in lines if rows[0] is not None]
        if lines:
            groups.append((heading, lines))
    return groups


def image_rows(metrics: Metrics) -> list[Row]:
    """Return the reconstruction scores, each beside the baseline that gives it a scale."""
    frechet = [
        row(
            metrics,
            f"{name}_reconstruction",
            label,
            digits=2,
            baseline=f"{name}_validation",
            against="validation images",
        )
        for name, label in (("fd_vit", "Fréchet distance in the frozen encoder’s features"), ("fid", "FID"))
    ]
    return present(
        [
            row(
                metrics,
                "psnr_reconstruction",
                "PSNR",
                unit="dB",
                digits=2,
                baseline="psnr_mean_image",
                against="mean training image",
            ),
            row(metrics, "psnr_gain", "PSNR gain over the mean image", unit="dB", digits=2),
            row(metrics, "ssim_reconstruction", "SSIM", digits=3),
            *frechet,
        ]
    )


LOSSES = {
    "itc": "Image-text contrast",
    "itm": "Image-text matching",
    "itg": "Report generation",
    "tig": "Image generation",
}


def loss_rows(metrics: Metrics) -> list[tuple[str, str, float, float]]:
    """Return (short name, name, first, last) of each validation loss."""
    return [
        (key, name, metrics[f"val_{key}_first"], metrics[f"val_{key}_last"])
        for key, name in LOSSES.items()
        if f"val_{key}_last" in metrics
    ]


def code_rows(metrics: Metrics, codebook_size: int) -> list[tuple[str, float, float, float]]:
    """Return (level, perplexity, its share of the codebook, share of codes in use) of the test images' codes."""
    return [
        (
            f"{level}, {grid}",
            metrics[f"perplexity_{level}"],
            metrics[f"perplexity_{level}"] / codebook_size,
            metrics[f"used_fraction_{level}"],
        )
        for level, grid in (("top", "8 × 8"), ("bottom", "16 × 16"))
        if f"perplexity_{level}" in metrics
    ]
