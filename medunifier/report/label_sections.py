"""The page's section on labels that do not exclude each other: fine-tuning and zero-shot classification, by label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from medunifier.report import sections, tables
from medunifier.report.tables import Metrics
from medunifier.runtime.params import MultiLabel, Params

TUNED = {"": "fine-tuned", "probe_": "linear probe"}
MATCHED = {"": "by similarity", "itm_": "by the matching head"}
COLUMNS = {"auprc": "AUPRC", "f1": "F1", "sensitivity": "sensitivity", "specificity": "specificity"}
BLANKS = {"negative": "A blank counts as negative", "ignore": "A blank leaves the image out for its label"}
UNCERTAIN = {
    "ignore": "an uncertain label leaves the image out for its label",
    "positive": "an uncertain label counts as positive",
    "negative": "an uncertain label counts as negative",
}


def label_sections(params: Params, read: Callable[[str], Metrics]) -> list[dict[str, Any]]:
    """Return one table for each evaluation of labels that do not exclude each other; `read` gives a stage's metrics."""
    return [
        label_section(heading, metrics, systems, rule)
        for heading, stage, systems, rule in evaluations(params)
        for metrics in [read(stage)]
    ]


def evaluations(params: Params) -> Iterator[tuple[str, str, dict[str, str], MultiLabel]]:
    """Yield (heading, stage, prefix of its metrics -> system, rule) of every such evaluation."""
    evaluate = params.evaluate
    for dataset, rule in evaluate.finetune.items():
        if isinstance(rule, MultiLabel):
            for model in evaluate.finetune_models:
                for percent in evaluate.finetune_percents:
                    heading = f"{model} on {dataset}, {percent} % of the training split"
                    yield heading, f"finetune@{model}-{dataset}-{percent}", TUNED, rule
    for dataset, rule in params.zero_shot.multi_label.items():
        for model in params.trained.itc:
            yield f"{model} on {dataset}, zero-shot", f"zero_shot@{model}-{dataset}", MATCHED, rule


def label_section(
    heading: str, metrics: Metrics, systems: dict[str, str], rule: MultiLabel
) -> dict[str, Any]:
    """Return the table of one evaluation: a row for each label and one for their mean, for each system.

    Args:
        heading: of the table.
        metrics: flat metrics of the stage.
        systems: prefix of the metrics -> what it stands for; those that were not measured are left out.
        rule: the labels, and what blanks and uncertain labels are.
    """
    return {
        "heading": heading,
        "caption": f"{heading}: AUROC of each label on the test split. F1, sensitivity and specificity are at the "
        f"threshold that is best on the validation split. {BLANKS[rule.blank]}, {UNCERTAIN[rule.uncertain]}.",
        "columns": list(COLUMNS.values()),
        "groups": [
            (name, label_rows(metrics, prefix, rule.labels))
            for prefix, name in systems.items()
            if f"{prefix}macro_auroc" in metrics
        ],
    }


def label_rows(metrics: Metrics, prefix: str, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of one system: AUROC with interval, the other values, and the numbers of images."""
    rows = []
    for label in (None, *labels):
        names = {
            kind: f"{prefix}macro_{kind}" if label is None else f"{prefix}{kind}_{label}"
            for kind in ("auroc", *COLUMNS)
        }
        name = "mean over labels" if label is None else label.replace("_", " ")
        auroc = tables.row(metrics, names["auroc"], name, baseline=f"{names['auroc']}_chance")
        if auroc is None:
            continue
        rows.append(
            {
                "auroc": auroc,
                "others": [tables.row(metrics, names[kind], name) for kind in COLUMNS],
                "positives": metrics.get(f"{names['sensitivity']}_n"),
                "plot": sections.interval_plot(auroc),
            }
        )
    return rows
