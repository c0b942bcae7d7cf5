"""Stage write_reports: a report for each test image, scored against the radiologist's (paper Table 4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from medunifier.evaluation.items import seeded_rows, usable_items
from medunifier.evaluation.loading import load_trained
from medunifier.evaluation.report_generation import reports_of_systems
from medunifier.evaluation.report_scoring import (
    clinical_metrics,
    finding_metrics,
    protocols_of,
    text_metrics,
    variety_metrics,
)
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.metrics.clinical_scorers import load_scorers
from medunifier.metrics.meteor import Meteor
from medunifier.results.examples import report_examples, write_examples
from medunifier.results.item_scores import clinical_rows, report_rows, write_items
from medunifier.results.predictions import REPORTS, report_table
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import PREPARED, read_table, write_table
from medunifier.tracking import LocalRun

EXAMPLES = 12  # reports in examples.md


def write_reports(params: Params, run: LocalRun, variant: str, dataset: str) -> None:
    """Generate a report for each test image of DATASET with the model VARIANT and score them.

    Metrics are times 100: BLEU-1 to 4, METEOR, ROUGE-L and CIDEr under the field's protocol (`bleu_1` ...), that of the
    authors' code (`release_bleu_1` ...) and, where `r2gen_min_count` asks for it, R2Gen's (`r2gen_bleu_1` ...); with the
    prefix `constant_` for the constant baseline, chosen among the training reports, and `nearest_` for the
    nearest-neighbour baseline, the training report most similar to the image. `study_` counts each study once.
    `bleu_4_gain` is the model's BLEU-4 less that of the constant baseline. Each has its confidence interval.

    `findings_f1_micro` and `_macro` compare the findings that a report mentions (a rule, see
    medunifier/metrics/mentions.py) with the labels of its image, which are the truth in a phantom. `distinct_share` and
    `commonest_share` tell whether reports differ at all. Clinical scorers are those that `clinical` names. DVC does not
    see weights that arrive later: the stage must be forced to use them.

    predictions.parquet holds every report, examples.md a few beside their references for readers.
    """
    p, folder = params.write_reports, Path("data/prepared") / dataset
    private = params.datasets[dataset].private
    scorers, left_out = load_scorers(p.clinical, p.clinical_device, p.clinical_batch_size)
    for line in left_out:
        run.log(f"warning: {line}; then: dvc repro --force --single-item {run.name}")
    with Meteor() as scorer:  # loads its dictionaries while the model generates
        model = load_trained(variant, dataset)
        test = usable_items(
            read_table(folder / "test.parquet", PREPARED), f"{folder}/test.parquet", [model.images], run
        )
        test = test[seeded_rows(len(test), p.max_reports, params.seed)]
        train = read_table(folder / "train.parquet", PREPARED)
        training = usable_items(train, f"{folder}/train.parquet", [], run, prefix="train_")["report"]
        ids, references = test["image_id"].to_list(), test["report"].to_list()
        systems = reports_of_systems(model, ids, training, p, params.seed, run, private=private)
        title = f"What {variant} writes for test images of {dataset}"
        output = Path("results/reports") / f"{variant}-{dataset}"
        write_results(run, output, title, test, systems, params.seed, private=private)
        run.metrics({"n_written": len(ids)} | variety_metrics(references, systems, run))
        run.log("score the reports")
        patients = test["patient_id"].to_list()
        options = BootstrapOptions(p.bootstrap, params.seed, patients)
        metrics, scores = text_metrics(test, systems, protocols_of(p, training), scorer, options, run)
    of_findings, finding_items = finding_metrics(test, systems, options)
    run.metrics(metrics | of_findings)
    clinical, items = clinical_metrics(scorers, references, systems, options, run, private=private)
    run.metrics(clinical)
    write_items(
        run.name, report_rows(scores, ids, patients) + clinical_rows(finding_items + items, ids, patients)
    )


def write_results(
    run: LocalRun,
    folder: Path,
    title: str,
    test: pl.DataFrame,
    systems: Mapping[str, Sequence[str]],
    seed: int,
    *,
    private: bool,
) -> None:
    """Write predictions.parquet and examples.md, which stay on this machine if the data set is private."""
    table = report_table(test, systems)
    write_table(table, folder / "predictions.parquet", REPORTS)
    run.artifact(folder / "predictions.parquet", private=private)
    write_examples(
        folder / "examples.md", title, report_examples(table[seeded_rows(len(table), EXAMPLES, seed)])
    )
    run.artifact(folder / "examples.md", private=private)


if __name__ == "__main__":
    run_stage(write_reports, arguments=("variant", "dataset"))
