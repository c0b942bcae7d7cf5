"""Stage zero_shot: classify images by the class whose prompts are most similar (paper section 4.2, Table 3)."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medunifier.evaluation.class_items import read_class_items
from medunifier.evaluation.class_prompts import PromptFile, read_prompts
from medunifier.evaluation.label_tasks import read_task
from medunifier.evaluation.loading import load_model
from medunifier.evaluation.trained_model import EvaluatedModel
from medunifier.evaluation.zero_shot import check_prompts, class_shares
from medunifier.evaluation.zero_shot_labels import draw_prompts, label_scores
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.metrics.classification_scores import score_exclusive, score_labels
from medunifier.results.item_scores import accuracy_rows, label_rows, write_items
from medunifier.results.predictions import classifier_table, zero_shot_table
from medunifier.runtime.files import write_json
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import write_table
from medunifier.tracking import LocalRun


def zero_shot(params: Params, run: LocalRun, variant: str, dataset: str) -> None:
    """Classify each benchmark image of DATASET with VARIANT, which was trained on no label.

    Classes and prompts come from `zero_shot.prompts`. `accuracy` is in percent and a mean over `zero_shot.seeds`,
    each of which draws its own prompts; `_seed_sd` is the spread between them. With `zero_shot.itm` the matching
    head scores the most similar prompt of each class, too: `itm_accuracy`. A data set in `zero_shot.multi_label` is
    scored label by label: `score_each_label`.
    """
    p = params.zero_shot
    file = read_prompts(p.prompts)
    model = load_model(params, variant, dataset)
    check_prompts(model, file, run.log)
    if p.itm and not model.can_match:
        run.log(f"no re-scoring: {variant} has no trained matching head")
    folder = Path("results/zero_shot") / f"{variant}-{dataset}"
    if dataset in p.multi_label:
        score_each_label(params, run, model, file, folder, dataset)
        return
    items, classes = read_class_items(dataset, file, model.images, run)
    ids, patients = items["image_id"].to_list(), items["patient_id"].to_list()
    names = [c.name for c in classes]
    target = np.array([names.index(name) for name in items["class"]], np.int64)
    run.metrics({"n_items": len(ids), "n_classes": len(classes)})

    prompts = {seed: [c.draw(p.prompts_per_class, seed) for c in classes] for seed in p.seeds}
    shares = class_shares(
        model, ids, list(prompts.values()), p.aggregation, matching=p.itm and model.can_match
    )
    found = shares.by_prefix()

    of_seeds = {str(seed): dict(zip(names, drawn, strict=True)) for seed, drawn in prompts.items()}
    record_prompts(folder, file, of_seeds, run)
    write_table(zero_shot_table(items, names, p.seeds, found), folder / "predictions.parquet", None)

    options = BootstrapOptions(p.bootstrap, params.seed, patients)
    rows = []
    for prefix, by_seed in found.items():
        for seed, scores in zip(p.seeds, by_seed, strict=True):
            rows.append(accuracy_rows(prefix, ids, patients, target, seed, scores))
        # shares are no probabilities: a calibration error would mean nothing
        run.metrics(score_exclusive(by_seed, target, names).without("ece").flat(options, prefix))
    write_items(run.name, rows)


def score_each_label(
    params: Params, run: LocalRun, model: EvaluatedModel, file: PromptFile, folder: Path, dataset: str
) -> None:
    """Score labels that do not exclude each other on the test split, each against the prompts of its absence.

    Metrics of each label and their means, with thresholds from the validation split; `itm_`: by the matching head.
    """
    p, rule = params.zero_shot, params.zero_shot.multi_label[dataset]
    labels = rule.labels
    test, held = (read_task(dataset, split, rule, model.images, run) for split in ("test", "validate"))
    run.metrics({"n_items": len(test), "n_labels": len(labels)})
    prompts = {seed: draw_prompts(file, labels, p.prompts_per_class, seed) for seed in p.seeds}
    matching = p.itm and model.can_match
    of_test, of_held = (
        [label_scores(model, task.ids, drawn, p.aggregation, matching=matching) for drawn in prompts.values()]
        for task in (test, held)
    )
    record_prompts(folder, file, {str(seed): drawn for seed, drawn in prompts.items()}, run)
    tables = [
        classifier_table(
            test.ids, test.patients, test.target, labels, seed, {f"{k}p": v for k, v in found.items()}
        )
        for seed, found in zip(p.seeds, of_test, strict=True)
    ]
    write_table(pl.concat(tables), folder / "predictions.parquet", None)
    options = BootstrapOptions(p.bootstrap, params.seed, test.patients)
    rows = []
    for prefix in of_test[0]:
        found, validate = ([scores[prefix] for scores in part] for part in (of_test, of_held))
        scores = score_labels(found, test.target, validate, held.target, labels)
        # shares are no probabilities: a calibration error would mean nothing
        run.metrics(scores.without("ece").flat(options, prefix))
        rows += label_rows(prefix, test.ids, test.patients, test.target, labels, p.seeds, found)
    write_items(run.name, rows)


def record_prompts(folder: Path, file: PromptFile, drawn: Mapping[str, Any], run: LocalRun) -> None:
    """Write prompts.json: the prompt file with its digest, and the prompts drawn under each seed."""
    digest = hashlib.sha256(file.path.read_bytes()).hexdigest()
    write_json(folder / "prompts.json", {"file": str(file.path), "sha256": digest, "drawn": drawn})
    run.artifact(folder / "prompts.json")


if __name__ == "__main__":
    run_stage(zero_shot, arguments=("variant", "dataset"))
