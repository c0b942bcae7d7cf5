"""The Markdown tables of docs/results/ on real radiographs, written from a record of `benchmarks.real_data`."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Run = Mapping[str, Any]
# Label of a row, its value, and what stands beside it: (words, value); `{class}` is the metric of classification.
Row = tuple[str, str, Sequence[tuple[str, str]]]

LEARNED: Sequence[Row] = (
    ("report for an image, mAP@1, %", "retrieve i2t_map_at_1",
     (("chance level", "retrieve i2t_map_at_1_chance"), ("encoder's nearest neighbour", "retrieve encoder_i2t_map_at_1"))),
    ("image for a report, mAP@1, %", "retrieve t2i_map_at_1", (("chance level", "retrieve t2i_map_at_1_chance"),)),
    ("zero-shot accuracy, %", "zero_shot accuracy", (("most frequent class", "zero_shot accuracy_chance"),)),
    ("zero-shot AUROC, mean over classes, %", "zero_shot macro_auroc", (("chance level", "zero_shot macro_auroc_chance"),)),
    *(row for p in (1, 10, 100) for row in (
        (f"fine-tuned on {p} %, AUROC, %", f"finetune {p} % auroc",
         (("probe on the pre-trained model", f"finetune {p} % probe_auroc"), ("probe on the encoder", f"finetune {p} % encoder_auroc"))),
        (f"fine-tuned on {p} %, accuracy, %", f"finetune {p} % accuracy",
         (("probe on the pre-trained model", f"finetune {p} % probe_accuracy"), ("probe on the encoder", f"finetune {p} % encoder_accuracy"))),
    )),
    ("findings mentioned in generated reports, micro F1, %", "reports findings_f1_micro",
     (("encoder's nearest neighbour", "reports encoder_findings_f1_micro"), ("nearest-neighbour baseline", "reports nearest_findings_f1_micro"),
      ("constant baseline", "reports constant_findings_f1_micro"))),
    ("generated reports, BLEU-4", "reports bleu_4",
     (("encoder's nearest neighbour", "reports encoder_bleu_4"), ("nearest-neighbour baseline", "reports nearest_bleu_4"),
      ("constant baseline", "reports constant_bleu_4"))),
    *((f"{fact} read right in generated reports, %", f"reports {fact} read right",
       (("encoder's nearest neighbour", f"reports encoder_{fact} read right"), ("constant baseline", f"reports constant_{fact} read right")))
      for fact in ("view", "sex", "age")),
)  # fmt: skip
GENERATED: Sequence[Row] = (
    ("reconstructed images, PSNR, dB", "images psnr_reconstruction", (("mean training image", "images psnr_mean_image"),)),
    ("Fréchet distance to test images: from reports", "fd reports",
     (("without text", "fd unconditional"), ("reconstructed", "fd reconstructed"), ("training images", "fd real"))),
    ("prompt fidelity, %", "images prompt_fidelity",
     (("chance level", "images prompt_fidelity_chance"), ("without text", "images prompt_fidelity_unconditional"))),
    *((f"{fact} as prompted, AUROC, %", f"{fact} reports",
       (("on real images", f"{fact} real"), ("on reconstructed ones", f"{fact} reconstructed"), ("chance level", "chance")))
      for fact in ("view AP", "sex male", "pneumonia", "bacterial pneumonia", "viral pneumonia")),
    ("nearer to a training image than 95 % of validation images, %", "images nearest_reports_suspicious", (("new images", "five"),)),
)  # fmt: skip
VIEWS = {
    "report for an image, mAP@1, %": ("retrieve", "i2t_map_at_1"),
    "zero-shot accuracy, %": ("zero_shot", "accuracy"),
    **{f"fine-tuned on {p} %, AUROC, %": (f"finetune {p}%", "auroc") for p in (1, 10, 100)},
    **{f"linear probe on {p} %, AUROC, %": (f"finetune {p}%", "probe_auroc") for p in (1, 10, 100)},
    "generated reports, BLEU-4": ("write_reports", "bleu_4"),
}
CONSTANTS = {"chance": [50.0, None, None, None], "five": [5.0, None, None, None]}


def tables_of(record: Mapping[str, Any]) -> str:
    """Return the tables of a record: what was learned, generated images, results within each view, sample reports."""
    runs = record["runs"]
    parts = [
        value_table(runs, LEARNED),
        value_table(runs, GENERATED),
        view_table(runs[0]),
        sample_lines(runs[0]),
    ]
    return "\n\n".join(part for part in parts if part)


def value_table(runs: Sequence[Run], rows: Sequence[Row]) -> str:
    """Return a table of the rows that the first run has: its value, mean over the seeds, references; nothing without one."""
    seeds = ", ".join(str(run["seed"]) for run in runs)
    spread = [f"seeds {seeds}: mean (sd)"] if len(runs) > 1 else []
    lines = [
        ["metric", f"seed {runs[0]['seed']}", *spread, "reference, the same seed" if spread else "reference"]
    ]
    for label, key, beside in rows:
        values = [run["values"].get(key) for run in runs]
        if values[0] is None or not known(values[0][0]):
            continue
        n = f" (n = {int(values[0][3])})" if known(values[0][3]) else ""
        mean = [of_seeds([value[0] for value in values]) if all(values) else ""] if spread else []
        own = runs[0]["values"] | CONSTANTS
        references = "; ".join(f"{cell(own[name])} {words}" for words, name in beside if name in own)
        lines.append([label + n, cell(values[0]), *mean, references])
    return markdown(lines) if len(lines) > 1 else ""


def view_table(run: Run) -> str:
    """Return the table of metrics within each view; nothing where the data set has one view."""
    views = sorted({line["view"] for line in run["views"]}, reverse=True)
    found = {(line["evaluation"], line["metric"], line["view"]): line for line in run["views"]}
    lines = [["metric", *(f"{view} alone" for view in views)]]
    for label, (start, metric) in VIEWS.items():
        cells = []
        for view in views:
            own = [v for (e, m, w), v in found.items() if family(e) == start and (m, w) == (metric, view)]
            cells.append(
                cell([own[0][k] for k in ("value", "ci_low", "ci_high", "n")], n=True) if own else ""
            )
        if any(cells):
            lines.append([label, *cells])
    for words, name in (
        ("generated reports", ""),
        ("encoder's nearest neighbour", "encoder_"),
        ("constant baseline", "constant_"),
    ):
        cells = [run["values"].get(f"reports {name}findings_f1_micro in {view}") for view in views]
        if any(cells):
            lines.append(
                [f"findings mentioned, micro F1, %: {words}", *(cell(c, n=True) if c else "" for c in cells)]
            )
    return markdown(lines) if len(lines) > 1 else ""


def family(evaluation: str) -> str:
    """Return the name of an evaluation without its data set: `finetune nih 10%` -> `finetune 10%`."""
    first, _, *percent = evaluation.split()
    return " ".join([first, *percent])


def sample_lines(run: Run) -> str:
    """Return the sample reports as a table; nothing without one."""
    if not run["samples"]:
        return ""
    rows = [[sample["image_id"], sample["reference"], sample["prediction"]] for sample in run["samples"]]
    return markdown([["image", "text from its labels", "generated"], *rows])


def cell(value: Sequence[float], *, n: bool = False) -> str:
    """Return a value with its confidence interval where it has one."""
    text = f"{value[0]:.1f}"
    if known(value[1]):
        text += f" [{value[1]:.1f}, {value[2]:.1f}]"
    return text + (f" (n = {int(value[3])})" if n else "")


def of_seeds(values: Sequence[float]) -> str:
    """Return the mean over seeds and, in parentheses, their standard deviation."""
    return f"{statistics.fmean(values):.1f} ({statistics.stdev(values):.1f})"


def known(value: float | None) -> bool:
    """Return whether a value is a number."""
    return value is not None


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first line is its head."""
    head, *rows = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rows])
