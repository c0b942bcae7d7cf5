"""Stage finetune: image classification with a part of a training set (paper section 4.2, Table 1)."""

from pathlib import Path

import numpy as np
import polars as pl

from medunifier.evaluation.finetuning import encode, fit_classifier, fit_linear_probe
from medunifier.evaluation.label_tasks import Task, nested_part, read_task
from medunifier.evaluation.loading import load_model
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.metrics.classification_scores import (
    ClassificationScores,
    score_binary,
    score_exclusive,
    score_labels,
)
from medunifier.results.item_scores import classifier_rows, label_rows, write_items
from medunifier.results.plots import write_classifier_plots
from medunifier.results.predictions import classifier_table
from medunifier.runtime.params import MultiLabel, Params
from medunifier.stage import run_stage
from medunifier.storage.tables import write_table
from medunifier.tracking import LocalRun

SPLITS = ("train", "validate", "test")
BySplit = dict[str, np.ndarray]  # split -> probabilities [n, classes]


def finetune(params: Params, run: LocalRun, variant: str, dataset: str, percent: str) -> None:
    """Fine-tune the image encoder of VARIANT, and a linear probe, on PERCENT % of DATASET's training split.

    The classes are those of `evaluate.finetune`: one label makes a binary task (AUROC), several make a task of
    classes that exclude each other (accuracy), or, as a section, labels that do not (mean AUROC). Early stopping and
    thresholds use the validation split, all metrics the test split; the prefix `probe_` marks the linear probe's.
    Metrics are in percent and means over `finetune.seeds`, each of which draws its own training part; `_seed_sd` is
    the spread between them. `best_step` is the mean step whose weights were kept; where it is 0, fine-tuning improved
    nothing over its start.
    """
    p, chosen = params.finetune, params.evaluate.finetune[dataset]
    labels = chosen.labels if isinstance(chosen, MultiLabel) else chosen
    model = load_model(params, variant, dataset)
    items = {split: read_task(dataset, split, chosen, model.images, run) for split in SPLITS}
    run.metrics({f"n_{split}": len(part) for split, part in items.items()})
    is_binary = len(labels) == 1 and not items["test"].many_labels
    names = (f"no_{labels[0]}", labels[0]) if is_binary else labels

    encoder = model.image_encoder().to(model.device).eval()
    held_out = {name: encode(encoder, model, items[name].ids) for name in ("validate", "test")}
    tuned: list[BySplit] = []
    probed: list[BySplit] = []
    tables, best_steps, used = [], [], 0
    for seed in p.seeds:
        part = items["train"].take(nested_part(items["train"].target, int(percent), seed))
        parts, used = items | {"train": part}, len(part)
        run.log(f"seed {seed}: {used} of {len(items['train'])} training images")
        vectors = held_out | {"train": encode(encoder, model, part.ids)}
        probe, probe_scores = fit_linear_probe(vectors, parts, len(labels))
        scores, best_step = fit_classifier(model, parts, probe, p, seed, run)
        tuned.append(scores)
        probed.append(probe_scores)
        best_steps.append(best_step)
        test, found = items["test"], {"p": scores["test"], "probe_p": probe_scores["test"]}
        tables.append(classifier_table(test.ids, test.patients, test.target, names, seed, found))
    run.metrics({"n_train_used": used, "best_step": float(np.mean(best_steps))})

    folder = Path("results/finetune") / f"{variant}-{dataset}-{percent}"
    write_table(pl.concat(tables), folder / "predictions.parquet", None)
    test = items["test"]
    options = BootstrapOptions(p.bootstrap, params.seed, test.patients)
    rows = []
    for prefix, found in (("", tuned), ("probe_", probed)):
        run.metrics(score(items, found, labels).flat(options, prefix))
        scores_of_seeds = [scores["test"] for scores in found]
        about = (prefix, test.ids, test.patients, test.target)
        rows += (
            label_rows(*about, labels, p.seeds, scores_of_seeds)
            if test.many_labels
            else classifier_rows(*about, p.seeds, scores_of_seeds)
        )
    write_items(run.name, rows)
    first_seed = {"finetuned": tuned[0]["test"], "probe": probed[0]["test"]}
    for path in write_classifier_plots(folder, labels, test.target, first_seed):
        run.artifact(path)


def score(items: dict[str, Task], found: list[BySplit], labels: tuple[str, ...]) -> ClassificationScores:
    """Score a classifier under every seed, by the task that the labels make."""
    test, validate = ([scores[split] for scores in found] for split in ("test", "validate"))
    if items["test"].many_labels:
        return score_labels(test, items["test"].target, validate, items["validate"].target, labels)
    if len(labels) == 1:
        return score_binary(test, items["test"].target, validate, items["validate"].target)
    return score_exclusive(test, items["test"].target, labels)


if __name__ == "__main__":
    run_stage(finetune, arguments=("variant", "dataset", "percent"))
