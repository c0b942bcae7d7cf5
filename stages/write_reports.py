"""Stage write_reports: a report for each test image, scored against the radiologist's (paper Table 4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from medunifier.evaluation.items import seeded_rows, usable_items
from medunifier.evaluation.loading import load_trained
from medunifier.evaluation.report_generation import finding_labels, reports_of_systems
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.metrics.clinical import optional_scores
from medunifier.metrics.meteor import Meteor
from medunifier.metrics.report_scores import TextScores, finding_intervals
from medunifier.metrics.text import PROTOCOLS
from medunifier.results.examples import report_examples, write_examples
from medunifier.results.item_scores import report_rows, write_items
from medunifier.results.predictions import REPORTS, report_table
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import PREPARED, read_table, write_table
from medunifier.tracking import LocalRun

EXAMPLES = 12  # reports in examples.md


def write_reports(params: Params, run: LocalRun, variant: str, dataset: str) -> None:
    """Generate a report for each test image of DATASET with the model VARIANT and score them.

    Metrics are times 100: BLEU-1 to 4, METEOR, ROUGE-L and CIDEr under the field's protocol (`bleu_1` ...) and that
    of the authors' code (`release_bleu_1` ...); with the prefix `constant_` for the constant baseline, chosen among
    the training reports, and `nearest_` for the nearest-neighbour baseline, the training report most similar to the
    image. `bleu_4_gain` is the model's BLEU-4 less that of the constant baseline. Each has its confidence interval.

    `findings_f1_micro` and `_macro` compare the findings that a report mentions (a rule, see
    medunifier/metrics/mentions.py) with the labels of its image, which are the truth in a phantom. CheXbert, RadGraph
    and RadEval are used where they are installed; the log says how to get them where not. DVC does not see an
    installation: the stage must be forced to use them.

    predictions.parquet holds every report, examples.md a few beside their references for readers.
    """
    p, folder = params.write_reports, Path("data/prepared") / dataset
    with Meteor() as scorer:  # loads its dictionaries while the model generates
        model = load_trained(variant, dataset)
        test = usable_items(
            read_table(folder / "test.parquet", PREPARED), f"{folder}/test.parquet", [model.images], run
        )
        test = test[seeded_rows(len(test), p.max_reports, params.seed)]
        train = read_table(folder / "train.parquet", PREPARED)
        training = usable_items(train, f"{folder}/train.parquet", [], run, prefix="train_")["report"]
        ids, references = test["image_id"].to_list(), test["report"].to_list()
        systems = reports_of_systems(model, ids, training, p, params.seed, run)
        title = f"What {variant} writes for test images of {dataset}"
        output = Path("results/reports") / f"{variant}-{dataset}"
        write_results(run, output, title, test, systems, params.seed)
        run.log("score the reports")
        scores = {
            (system, protocol): TextScores.of(*clean(references, reports), scorer)
            for system, reports in systems.items()
            for protocol, clean in PROTOCOLS.items()
        }
    patients = test["patient_id"].to_list()
    options = BootstrapOptions(p.bootstrap, params.seed, patients)
    metrics: dict[str, float | int] = {"n_written": len(ids)}
    for (system, protocol), found in scores.items():
        prefix = system + ("" if protocol == "report" else f"{protocol}_")
        for name, interval in found.intervals(options).items():
            metrics |= interval.flat(prefix + name, scale=100)
    model_scores = scores["", "report"]
    gain = model_scores.bleu_4_gain(scores["constant_", "report"], options)
    run.metrics(metrics | gain.flat("bleu_4_gain", scale=100))
    write_items(run.name, report_rows(model_scores, ids, patients))
    score_clinically(run, test, references, systems, options)


def write_results(
    run: LocalRun,
    folder: Path,
    title: str,
    test: pl.DataFrame,
    systems: Mapping[str, Sequence[str]],
    seed: int,
) -> None:
    """Write predictions.parquet and examples.md."""
    table = report_table(test, systems)
    write_table(table, folder / "predictions.parquet", REPORTS)
    run.artifact(folder / "predictions.parquet")
    write_examples(
        folder / "examples.md", title, report_examples(table[seeded_rows(len(table), EXAMPLES, seed)])
    )
    run.artifact(folder / "examples.md")


def score_clinically(
    run: LocalRun,
    test: pl.DataFrame,
    references: Sequence[str],
    systems: Mapping[str, Sequence[str]],
    options: BootstrapOptions,
) -> None:
    """Score the findings that each system mentions, and the model's reports by the optional clinical scorers."""
    findings, labels = finding_labels(test)
    if findings:
        for system, reports in systems.items():
            for name, interval in finding_intervals(reports, findings, labels, options).items():
                run.metrics(interval.flat(system + name, scale=100))
    scores, missing = optional_scores(references, systems[""])
    run.metrics({name: 100 * value for name, value in scores.items()})
    for line in missing:
        run.log(f"{line}; once it is there: dvc repro --force --single-item {run.name}")


if __name__ == "__main__":
    run_stage(write_reports, arguments=("variant", "dataset"))
