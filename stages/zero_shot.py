"""Stage zero_shot: classify images by the class whose prompts are most similar (paper section 4.2, Table 3)."""

import hashlib
from pathlib import Path

import numpy as np

from medunifier.evaluation.class_items import read_class_items
from medunifier.evaluation.class_prompts import read_prompts
from medunifier.evaluation.loading import load_model
from medunifier.evaluation.zero_shot import class_shares
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.metrics.classification_scores import score_exclusive
from medunifier.results.item_scores import accuracy_rows, write_items
from medunifier.results.predictions import zero_shot_table
from medunifier.runtime.files import write_json
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import write_table
from medunifier.tracking import LocalRun


def zero_shot(params: Params, run: LocalRun, variant: str, dataset: str) -> None:
    """Classify each benchmark image of DATASET with VARIANT, which was trained on no label.

    Classes and prompts come from `zero_shot.prompts`. `accuracy` is in percent and a mean over `zero_shot.seeds`,
    each of which draws its own prompts; `_seed_sd` is the spread between them. With `zero_shot.itm` the matching
    head scores the most similar prompt of each class, too: `itm_accuracy`.
    """
    p = params.zero_shot
    file = read_prompts(p.prompts)
    model = load_model(params, variant, dataset)
    items, classes = read_class_items(dataset, file, model.images, run)
    ids, patients = items["image_id"].to_list(), items["patient_id"].to_list()
    names = [c.name for c in classes]
    target = np.array([names.index(name) for name in items["class"]], np.int64)
    run.metrics({"n_items": len(ids), "n_classes": len(classes)})

    if p.itm and not model.can_match:
        run.log(f"no re-scoring: {variant} has no trained matching head")
    prompts = {seed: [c.draw(p.prompts_per_class, seed) for c in classes] for seed in p.seeds}
    shares = class_shares(
        model, ids, list(prompts.values()), p.aggregation, matching=p.itm and model.can_match
    )
    found = shares.by_prefix()

    folder = Path("results/zero_shot") / f"{variant}-{dataset}"
    digest = hashlib.sha256(file.path.read_bytes()).hexdigest()
    named = {str(seed): dict(zip(names, drawn, strict=True)) for seed, drawn in prompts.items()}
    write_json(folder / "prompts.json", {"file": str(file.path), "sha256": digest, "drawn": named})
    run.artifact(folder / "prompts.json")
    write_table(zero_shot_table(items, names, p.seeds, found), folder / "predictions.parquet", None)

    options = BootstrapOptions(p.bootstrap, params.seed, patients)
    rows = []
    for prefix, by_seed in found.items():
        for seed, scores in zip(p.seeds, by_seed, strict=True):
            rows.append(accuracy_rows(prefix, ids, patients, target, seed, scores))
        # shares are no probabilities: a calibration error would mean nothing
        run.metrics(score_exclusive(by_seed, target, names).without("ece").flat(options, prefix))
    write_items(run.name, rows)


if __name__ == "__main__":
    run_stage(zero_shot, arguments=("variant", "dataset"))
