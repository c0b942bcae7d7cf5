"""Stage write_reports: a report for each test image, scored against the radiologist's (paper Table 4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.evaluation.items import seeded_rows, usable_items
from medunifier.evaluation.loading import load_trained
from medunifier.evaluation.trained_model import TrainedModel
from medunifier.metrics.bootstrap import BootstrapOptions, Interval, bootstrap, bootstrap_means
from medunifier.metrics.clinical import finding_counts, finding_f1, optional_scores
from medunifier.metrics.mentions import NAMES, findings_mentioned
from medunifier.metrics.meteor import Meteor, meteor
from medunifier.metrics.retrieval import rank_texts
from medunifier.metrics.text import (
    BLEU_COUNTS,
    ORDERS,
    PROTOCOLS,
    best_constant,
    bleu,
    bleu_statistics,
    cider,
    rouge_l,
)
from medunifier.results.examples import Example, write_examples
from medunifier.results.item_scores import item_rows, write_items
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import LABEL_PREFIX, PREPARED, Schema, read_table, write_table
from medunifier.tracking import Run

CONSTANT_FROM = 10_000  # training reports among which the best constant one is sought, drawn by the seed
EXAMPLES = 12  # reports in examples.md
_COLUMNS = (
    "image_id",
    "study_id",
    "patient_id",
    "reference",
    "prediction",
    "constant",  # the best constant report
    "nearest",  # the training report most similar to the image
)
PREDICTIONS = Schema("predictions", dict.fromkeys(_COLUMNS, pl.String), frozenset(_COLUMNS))


def write_reports(params: Params, run: Run, variant: str, dataset: str) -> None:
    """Write a report for each test image of DATASET with the model VARIANT and score them.

    Figures are times 100: BLEU-1 to 4, METEOR, ROUGE-L and CIDEr under the field's protocol (`bleu_1` ...) and the
    release's (`release_bleu_1` ...); in front of them `constant_` for the best constant report, which is chosen on
    the training reports, and `nearest_` for the training report most similar to the image. `bleu_4_gain` is what
    the model has over the constant report. Each has its interval.

    `findings_f1_micro` and `_macro` hold what a report tells, read by a rule (medunifier/metrics/mentions.py),
    against the labels of its image, which are the truth in a phantom. CheXbert, RadGraph and RadEval are asked
    where they are installed; the log says how to get them where not. DVC does not see an installation: the stage
    must be forced to ask them.

    predictions.parquet holds every report, examples.md a few beside their references, to be read.
    """
    with Meteor() as scorer:  # loads its dictionaries while the model writes
        trained = load_trained(variant, dataset)
        folder = Path("data/prepared") / dataset
        test = usable_items(
            read_table(folder / "test.parquet", PREPARED), f"{folder}/test.parquet", [trained.images], run
        )
        test = test[seeded_rows(len(test), params.write_reports.max_reports, params.seed)]
        training = usable_items(
            read_table(folder / "train.parquet", PREPARED),
            f"{folder}/train.parquet",
            [],
            run,
            prefix="train_",
        )
        ids, references = test["image_id"].to_list(), test["report"].to_list()
        run.log(f"write {len(ids)} reports")
        written = trained.generate_reports(ids, params.write_reports, params.seed)
        known = training["report"][seeded_rows(len(training), CONSTANT_FROM, params.seed)].to_list()
        constant = best_constant(known)
        run.log(f"best constant report of {len(known)} training reports: {constant}")
        systems = {
            "": written,
            "constant_": [constant] * len(ids),
            "nearest_": nearest_reports(
                trained, ids, training["report"].unique(maintain_order=True).to_list()
            ),
        }
        output = Path("results/reports") / f"{variant}-{dataset}"
        table = test.select("image_id", "study_id", "patient_id", reference="report").with_columns(
            pl.Series(system.rstrip("_") or "prediction", texts, pl.String)
            for system, texts in systems.items()
        )
        write_table(table, output / "predictions.parquet", PREDICTIONS)
        run.artifact(output / "predictions.parquet")
        chosen = table[seeded_rows(len(table), EXAMPLES, params.seed)]
        title = f"What {variant} writes for test images of {dataset}"
        write_examples(output / "examples.md", title, examples(chosen))
        run.artifact(output / "examples.md")

        run.log("score them")
        measured = {
            (system, protocol): measure(*clean(references, predictions), scorer)
            for system, predictions in systems.items()
            for protocol, clean in PROTOCOLS.items()
        }
    patients = test["patient_id"].to_list()
    options = BootstrapOptions(params.write_reports.bootstrap, params.seed, patients)
    metrics: dict[str, float | int] = {"n_written": len(ids)}
    for (system, protocol), found in measured.items():
        prefix = system + ("" if protocol == "report" else f"{protocol}_")
        for name, interval in intervals_of(found, options).items():
            metrics |= interval.flat(prefix + name, scale=100)
    run.metrics(
        metrics | gain(measured["", "report"]["bleu"], measured["constant_", "report"]["bleu"], options)
    )
    write_items(run.name, text_items(measured["", "report"], ids, patients))
    clinical(run, test, references, systems, options)


def examples(predictions: pl.DataFrame) -> list[Example]:
    """Rows of predictions.parquet, to be read: the reference, and below it what the model wrote."""
    return [
        (
            f"Image {row['image_id']}, study {row['study_id']}",
            [("reference", row["reference"]), ("written", row["prediction"])],
        )
        for row in predictions.iter_rows(named=True)
    ]


def clinical(
    run: Run,
    test: pl.DataFrame,
    references: Sequence[str],
    systems: Mapping[str, Sequence[str]],
    options: BootstrapOptions,
) -> None:
    """Findings told by each system against the labels, and the optional scorers on the model's reports."""
    findings = tuple(name for name in NAMES if LABEL_PREFIX + name in test.columns)
    if findings:
        truth = test.select(LABEL_PREFIX + name for name in findings).fill_null(0).to_numpy().astype(float)
        truth[truth < 0] = np.nan  # uncertain
        for system, predictions in systems.items():
            told = [findings_mentioned(text, findings) for text in predictions]
            matrix = np.array([[name in found for name in findings] for found in told])
            intervals = bootstrap(finding_counts(matrix, truth), finding_f1, options)
            for name, interval in zip(("micro", "macro"), intervals, strict=True):
                run.metrics(interval.flat(f"{system}findings_f1_{name}", scale=100))
    scores, missing = optional_scores(references, systems[""])
    run.metrics({name: 100 * value for name, value in scores.items()})
    for line in missing:
        run.log(f"{line}; once it is there: dvc repro --force --single-item {run.name}")


def nearest_reports(trained: TrainedModel, ids: Sequence[str], reports: Sequence[str]) -> list[str]:
    """For each image the one of `reports` that is most similar to it by image-text similarity."""
    best, _ = rank_texts(trained.embed_images(ids), trained.embed_texts(reports), 1)
    return [reports[number] for number in best[:, 0]]


def measure(
    references: Sequence[Sequence[str]], predictions: Sequence[str], scorer: Meteor
) -> dict[str, np.ndarray]:
    """Of cleaned texts: the statistics of BLEU [N, 10] and METEOR [N, 23], each item's ROUGE-L and CIDEr [N]."""
    return {
        "bleu": bleu_statistics(references, predictions),
        "meteor": scorer.statistics(references, predictions),
        "rouge_l": rouge_l(references, predictions),
        "cider": cider(references, predictions),
    }


def intervals_of(found: Mapping[str, np.ndarray], options: BootstrapOptions) -> dict[str, Interval]:
    """BLEU-1 to 4, METEOR, ROUGE-L in [0, 1] and CIDEr in [0, 10], by name; `found` by `measure`."""
    *bleus, meteor_score = bootstrap(
        np.concatenate([found["bleu"], found["meteor"]], axis=1),
        lambda sums: np.concatenate(
            [bleu(sums[..., :BLEU_COUNTS]), meteor(sums[..., BLEU_COUNTS:])[..., None]], axis=-1
        ),
        options,
    )
    rouge, consensus = bootstrap_means(np.stack([found["rouge_l"], found["cider"]], axis=1), options)
    return {f"bleu_{n}": interval for n, interval in enumerate(bleus, 1)} | {
        "meteor": meteor_score,
        "rouge_l": rouge,
        "cider": consensus,
    }


def gain(model: np.ndarray, constant: np.ndarray, options: BootstrapOptions) -> dict[str, float | int]:
    """`bleu_4_gain`, in percent: BLEU-4 of the model less that of the constant report, drawn together.

    Args:
        model, constant: `bleu_statistics` of both, [N, 10].
    """
    (difference,) = bootstrap(
        np.concatenate([model, constant], axis=1),
        lambda sums: bleu(sums[..., :BLEU_COUNTS])[..., -1:] - bleu(sums[..., BLEU_COUNTS:])[..., -1:],
        options,
    )
    return difference.flat("bleu_4_gain", scale=100)


def text_items(
    found: Mapping[str, np.ndarray], ids: Sequence[str], patients: Sequence[str]
) -> list[pl.DataFrame]:
    """What each report scored, for comparisons of models; `found` by `measure`."""
    bleus = bleu(found["bleu"])
    return [
        *(
            item_rows(f"bleu_{n}", ids, patients, bleus[:, n - 1], statistics=found["bleu"])
            for n in range(1, ORDERS + 1)
        ),
        item_rows("meteor", ids, patients, meteor(found["meteor"]), statistics=found["meteor"]),
        *(item_rows(name, ids, patients, found[name]) for name in ("rouge_l", "cider")),
    ]


if __name__ == "__main__":
    run_stage(write_reports, arguments=("variant", "dataset"))
