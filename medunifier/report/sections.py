"""The page's sections: metrics and counts of the stages as the variables that page.html shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from medunifier.metrics.matching import matching_warning
from medunifier.report import svg, tables
from medunifier.report.page import count, decimals
from medunifier.report.tables import Metrics

FROM_LABELS = " These texts are sentences written from labels, not radiologists’ reports."

Curve = Sequence[Mapping[str, Any]]  # rows of results/curves: step, split and whatever was measured there


def data_section(
    name: str,
    prepared: Mapping,
    decoded: Mapping,
    meanings: Mapping[str, str],
    separate: bool,
    benchmark_undecoded: int,
) -> dict[str, Any]:
    """Return the counts of one data set, from the summaries of prepare and decode_images.

    Args:
        name: the data set.
        prepared: summary.json of prepare.
        decoded: summary.json of decode_images.
        meanings: what each reason of rejection means.
        separate: no patient of the benchmark is in another split, so that patients add up.
        benchmark_undecoded: images of the benchmark that could not be decoded.
    """
    kept = prepared["kept"]
    classes = prepared.get("benchmark", {}).get("classes", {})
    notes = dict(prepared["notes"])
    shared = notes.pop("benchmark_images_in_training", None)
    return {
        "name": name,
        "raw": prepared["raw"],
        "kept": sum(kept.values()),
        "dropped": sum(prepared["rejected"].values()),
        "decoded": decoded["decoded"],
        "undecoded": sum(decoded["rejected"].values()),
        "parts": [
            {
                "name": split,
                "images": images,
                "studies": prepared["studies"][split],
                "patients": prepared["patients"][split],
            }
            for split, images in kept.items()
        ],
        "studies": sum(prepared["studies"].values()) if separate else None,
        "patients": sum(prepared["patients"].values()) if separate else None,
        "separate": separate,
        "benchmark": ", ".join(f"{count} of {words(label)}" for label, count in classes.items()),
        "benchmark_size": sum(classes.values()),
        "benchmark_in_training": shared,
        "texts": label_texts(prepared["texts"]),
        "digests": prepared["image_ids_sha256"],
        "notes": [(words(name), number) for name, number in notes.items() if number],
        "decoding_notes": list(decoded["notes"].items()),
        "verified": decoded["verified"],
        "benchmark_undecoded": benchmark_undecoded,
        "rejects": reject_rows(prepared, decoded, meanings),
    }


def label_texts(texts: Mapping[str, Any]) -> str:
    """Return the sentence on texts that are written from labels; empty for a data set's own reports."""
    if texts["from"] != "labels":
        return ""
    return (
        f"Its texts are sentences written from labels ({texts['template']}, version {texts['version']}, SHA-256 "
        f"{texts['sha256'][:12]}…). No radiologist wrote them."
    )


def reject_rows(prepared: Mapping, decoded: Mapping, meanings: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the reasons for rejections at both stages with their counts, the most frequent first."""
    rejects: list[tuple[str, str, int]] = [
        (stage, reason, images)
        for stage, summary in (("prepare", prepared), ("decode_images", decoded))
        for reason, images in summary["rejected"].items()
    ]
    return [
        {
            "stage": stage,
            "reason": words(reason),
            "images": images,
            "meaning": with_code(meanings.get(reason, "")),
        }
        for stage, reason, images in sorted(rejects, key=lambda reject: -reject[2])
        if images
    ]


def training_section(
    variant: str, weights: Mapping[str, float], metrics: Metrics, curve: Curve, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """Return loss curves and validation losses of one variant.

    Args:
        variant: its name.
        weights: objective -> weight.
        metrics: flat metrics of its pre-training.
        curve: rows of results/curves.
        recipe: `dataset`, `steps`, `batch_size` and `learning_rate` of pretrain.
    """
    objectives = ", ".join(f"{key.upper()} × {weight:g}" for key, weight in weights.items() if weight)
    validated = [row for row in curve if row["split"] == "validate" and "itm_negatives" in row]
    warning = matching_warning(validated[-1]) if validated else None
    pairs = metrics.get("validate_pairs")
    return {
        "name": variant,
        "heading": f"Variant {variant}",
        "summary": f"{recipe['steps']} steps of {recipe['batch_size']} pairs from {recipe['dataset']}, peak learning "
        f"rate {recipe['learning_rate']:g}; objectives and weights: {objectives}."
        + (f" {warning}" if warning else ""),
        "validated": f"{pairs:.0f} validation pairs of {recipe['dataset']}"
        if pairs
        else "the validation split",
        "losses": tables.loss_rows(metrics),
        "charts": [chart for chart in charts(curve) if chart[2]],
    }


def charts(curve: Curve) -> list[tuple[str, str, Markup]]:
    """Return (name, detail, SVG) of each chart; the SVG is empty where nothing was measured."""

    def points(column: str, split: str) -> list[svg.Point]:
        return [
            (row["step"], row[column])
            for row in curve
            if row["split"] == split and row.get(column) is not None
        ]

    def chart(name: str, detail: str, *lines: svg.Line) -> tuple[str, str, Markup]:
        return name, detail, Markup(svg.line_chart(name, lines))

    found = [
        chart(
            key.upper(),
            name.lower(),
            svg.Line("training", points(key, "train"), "train"),
            svg.Line("validation", points(key, "validate"), "validate", dots=True),
        )
        for key, name in tables.LOSSES.items()
    ]
    levels = [svg.Line(n, points(f"perplexity_{n}", "validate"), n, dots=True) for n in ("top", "bottom")]
    found.append(chart("Perplexity", Markup('<b class="top">top</b>, <b class="bottom">bottom</b>'), *levels))
    for column, name, detail in (
        ("loss", "Total loss", "weighted sum"),
        ("temperature", "Temperature", "of ITC"),
        ("learning_rate", "Learning rate", "of the optimizer"),
    ):
        found.append(chart(name, detail, svg.Line("training", points(column, "train"), "validate")))
    return found


def retrieval_section(
    variant: str, dataset: str, metrics: Metrics, benchmark: bool, from_labels: bool
) -> dict[str, Any]:
    """Return the retrieval metrics of one variant on one data set.

    Args:
        variant: its name.
        dataset: the data set.
        metrics: flat metrics of retrieve.
        benchmark: the images are those of a benchmark.
        from_labels: the texts are written from labels.
    """
    ks = sorted({int(match[1]) for name in metrics if (match := re.fullmatch(r"i2t_map_at_(\d+)", name))})
    groups = tables.retrieval_groups(metrics, ks)
    subset = "class-balanced benchmark" if benchmark else "test split"
    return {
        "heading": f"Variant {variant} on {dataset}",
        "caption": f"{metrics['n_items']} images and their reports from the {subset} of {dataset} "
        f"({metrics['n_classes']} classes, {metrics['n_reports']} different reports), ranked against each other by "
        "image-text similarity. For mAP a candidate is relevant if it is of the query’s class, for recall if it is "
        "the very report. “Authors’”: average precision as the authors’ code defines it, see the notes below."
        f"{FROM_LABELS if from_labels else ''}",
        "groups": [
            (heading, [vars(row) | {"plot": interval_plot(row)} for row in rows]) for heading, rows in groups
        ],
    }


def interval_plot(row: tables.Row) -> Markup:
    """Return the row's confidence interval and baseline on a line from 0 to 100 %; empty without an interval."""
    if row.low is None or row.high is None:
        return Markup()
    return Markup(svg.whisker(row.value, row.low, row.high, row.baseline, (0, 100)))


def images_section(
    variant: str,
    dataset: str,
    reconstructed: str,
    scores: Metrics,
    codes: Metrics,
    codebook_size: int,
    pairs: Sequence[tuple[str, str, str]] | None,
) -> dict[str, Any]:
    """Return reconstruction scores, codebook use and image pairs (original, reconstruction, label) of one variant.

    Pairs are None where they are left out, since the data set is private. `reconstructed` is the split whose
    reconstructions Table 5 compares.
    """
    compared, reference = (scores.get(f"fd_vit_{name}_n") for name in ("reconstruction", "reference"))
    of = " reconstructed training" if reconstructed == "train" else ""
    sizes = (
        f" Fréchet distances compare {compared}{of} images with {reference} training images."
        if compared
        else ""
    )
    return {
        "heading": f"Variant {variant} on {dataset}",
        "caption": f"Test images of {dataset}, reconstructed from their codes and compared with the originals.{sizes}",
        "rows": tables.image_rows(scores),
        "codes": tables.code_rows(codes, codebook_size),
        "codes_caption": f"How the test images of {dataset} use the {codebook_size} codes of each level. "
        "Perplexity is the number of equally frequent codes that would carry as much.",
        "pairs": pairs or [],
        "withheld": withheld(dataset, "Reconstructed images", f"results/images/{variant}/")
        if pairs is None
        else "",
        "pairs_caption": "Each test image stands above its reconstruction from 64 + 256 codes, with the PSNR.",
    }


def facts(
    data: Mapping[str, Any], retrieval: Metrics | None, reports: Metrics | None, images: Metrics | None
) -> list[dict[str, str]]:
    """Return the headline values, each with its confidence interval, n and baseline."""
    found = [
        {
            "name": f"Images of {data['name']}",
            "value": count(data["kept"]),
            "unit": "kept",
            "note": f"of {count(data['raw'])} in the index",
        }
    ]
    for metrics, name, label, unit, baseline, against in (
        (retrieval, "i2t_map_at_1", "Image to report, mAP@1", "%", "i2t_map_at_1_chance", "chance"),
        (
            reports,
            "bleu_4",
            "Generated reports, BLEU\N{NON-BREAKING HYPHEN}4",
            "%",
            "constant_bleu_4",
            "constant baseline",
        ),
        (images, "psnr_gain", "Reconstruction, PSNR gain", "dB", "", ""),
    ):
        row = tables.row(metrics or {}, name, label, baseline=baseline, against=against)
        if row is None:
            continue
        parts = []
        if row.low is not None and row.high is not None:
            parts.append(f"{decimals(row.low, 1)} to {decimals(row.high, 1)}, n = {row.n}")
        if row.baseline is not None:
            parts.append(f"{against} {decimals(row.baseline, 1)}")
        elif name == "psnr_gain":
            parts.append("against the mean image")
        found.append({"name": label, "value": decimals(row.value, 1), "unit": unit, "note": "; ".join(parts)})
    return found


def withheld(dataset: str, what: str, folder: str) -> str:
    """Return the sentence in place of examples of a private data set."""
    return f"{what} are left out, since {dataset} is private. They lie in {folder} on the machine that made them."


def words(name: str) -> str:
    """Return a snake_case name as words, such as "pleural effusion"."""
    return name.replace("_", " ")


def with_code(text: str) -> Markup:
    """Return plain text as HTML, with what stands between backticks as code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )
