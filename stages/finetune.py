"""Stage finetune: image classification with a part of a training set (paper section 4.2, Table 1)."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from medunifier.evaluation.items import BATCH, batches
from medunifier.evaluation.loading import load_model
from medunifier.evaluation.trained_model import EvaluatedModel
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.metrics.classification_scores import Judged, judge_binary, judge_exclusive
from medunifier.results.item_scores import item_rows, write_items
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.mapped_rows import MappedRows
from medunifier.storage.tables import LABEL_PREFIX, PREPARED, read_table, write_table
from medunifier.tracking import Run

if TYPE_CHECKING:
    import torch
    from torch import nn

SPLITS = ("train", "validate", "test")


def finetune(params: Params, run: Run, variant: str, dataset: str, percent: str) -> None:
    """Fine-tune the image side of VARIANT, and a linear probe, on PERCENT % of DATASET's training split.

    The classes are those of `evaluate.finetune`: one label makes a binary task (AUROC), several make a task of
    classes that exclude each other (accuracy). Early stopping and thresholds go by the validation split, all
    figures by the test split; `probe_` in front names the linear probe's. Figures are in percent and means over
    `finetune.seeds`, each of which draws its own training part; `_seed_sd` is the spread between them. `best_step`
    is the mean step whose weights were kept; where it is 0, fine-tuning brought nothing beyond its start.
    """
    p, labels = params.finetune, params.evaluate.finetune[dataset]
    model = load_model(params, variant, dataset)
    items = {split: read_task(dataset, split, labels, model.images, run) for split in SPLITS}
    run.metrics({f"n_{split}": len(part) for split, part in items.items()})
    classes = (f"no_{labels[0]}", labels[0]) if len(labels) == 1 else labels

    encoder = model.image_encoder().to(model.device).eval()
    held = {name: encode(encoder, model, items[name].ids) for name in ("validate", "test")}
    tuned, probed, frames, best_steps = [], [], [], []
    for seed in p.seeds:
        chosen = nested_part(items["train"].target, int(percent), seed)
        parts = items | {"train": items["train"].take(chosen)}
        run.log(f"seed {seed}: {len(chosen)} of {len(items['train'])} training images")
        vectors = held | {"train": encode(encoder, model, parts["train"].ids)}
        probe, probe_scores = fit_linear_probe(vectors, parts, len(labels))
        scores, best_step = fit_classifier(params, run, model, parts, seed, probe)
        tuned.append(scores)
        best_steps.append(best_step)
        probed.append(probe_scores)
        frames.append(predictions(parts["test"], seed, classes, scores["test"], probe_scores["test"]))
    run.metrics({"n_train_used": len(chosen), "best_step": float(np.mean(best_steps))})

    options = BootstrapOptions(p.bootstrap, params.seed, items["test"].patients)
    folder = Path("results/finetune") / f"{variant}-{dataset}-{percent}"
    write_table(pl.concat(frames), folder / "predictions.parquet", None)
    for prefix, found in (("", tuned), ("probe_", probed)):
        test, validate = ([seed[split] for seed in found] for split in ("test", "validate"))
        if len(labels) == 1:
            judged = judge_binary(test, items["test"].target, validate, items["validate"].target)
        else:
            judged = judge_exclusive(test, items["test"].target, labels)
        run.metrics(flat(judged, options, prefix))
    write_items(run.name, list(test_items(items["test"], p.seeds, tuned, probed)))
    draw(folder, run, labels, items["test"].target, tuned[0]["test"], probed[0]["test"])


@dataclass(frozen=True)
class Task:
    """Labelled images of one split: ids, whose they are, class numbers int64 [n]."""

    ids: list[str]
    patients: list[str]
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, chosen: np.ndarray) -> "Task":
        """A selection of the rows."""
        return Task(
            [self.ids[i] for i in chosen],
            [self.patients[i] for i in chosen],
            self.target[chosen],
        )


def read_task(dataset: str, split: str, labels: Sequence[str], store: MappedRows, run: Run) -> Task:
    """The images of a split that have a class: 0 or 1 in one label, or exactly one 1 among several.

    The others are counted in the metrics `SPLIT_without_class` and `SPLIT_without_picture`. Raises InputError
    when a label column is missing or a class has no image.
    """
    path = Path("data/prepared") / dataset / f"{split}.parquet"
    table = read_table(path, PREPARED)
    columns = [LABEL_PREFIX + name for name in labels]
    if missing := [column for column in columns if column not in table.columns]:
        known = [c.removeprefix(LABEL_PREFIX) for c in table.columns if c.startswith(LABEL_PREFIX)]
        raise InputError(
            f"{path}: no column {', '.join(missing)}; evaluate.finetune.{dataset} may name: {', '.join(known)}"
        )
    values = table.select(columns).to_numpy().astype(np.float64)  # a blank becomes NaN
    if len(labels) == 1:
        target = np.where(np.isin(values[:, 0], (0, 1)), values[:, 0], -1).astype(np.int64)
    else:
        target = np.where((values == 1).sum(1) == 1, (values == 1).argmax(1), -1)
    stored = np.array([image_id in store for image_id in table["image_id"]], bool)
    run.metrics(
        {
            f"{split}_without_class": int((target < 0).sum()),
            f"{split}_without_picture": int(((target >= 0) & ~stored).sum()),
        }
    )
    kept = np.flatnonzero((target >= 0) & stored)
    found = np.bincount(target[kept], minlength=max(2, len(labels)))
    if (found == 0).any():
        raise InputError(
            f"{path}: classes of evaluate.finetune.{dataset} ({', '.join(labels)}) have {found.tolist()} images; "
            "each needs one in every split: look at data/prepared/*/summary.json, or choose other labels"
        )
    ids = table["image_id"].gather(kept).to_list()
    return Task(ids, table["patient_id"].gather(kept).to_list(), target[kept])


def nested_part(target: np.ndarray, percent: int, seed: int) -> np.ndarray:
    """Row numbers of `percent` % of each class, at least one, in order.

    A larger part of the same seed contains every smaller one.
    """
    rng = np.random.default_rng([seed, 1])
    chosen = []
    for number in np.unique(target):
        rows = rng.permutation(np.flatnonzero(target == number))
        chosen.append(rows[: max(1, round(len(rows) * percent / 100))])
    return np.sort(np.concatenate(chosen))


def fit_linear_probe(
    vectors: dict[str, np.ndarray], parts: dict[str, Task], outputs: int
) -> "tuple[nn.Linear, dict[str, np.ndarray]]":
    """The probe of each part's `vectors`, [n, W], and its probabilities, [n, classes], on them."""
    import torch

    from medunifier.evaluation.classifier import fit_probe, probabilities

    probe = fit_probe(
        vectors["train"], parts["train"].target, vectors["validate"], parts["validate"].target, outputs
    )
    with torch.inference_mode():
        found = {name: probabilities(probe(torch.from_numpy(x))).numpy() for name, x in vectors.items()}
    return probe, found


def encode(network: "nn.Module", model: EvaluatedModel, ids: Sequence[str]) -> np.ndarray:
    """What `network` makes of images, float32 [n, outputs]."""
    import torch

    with torch.inference_mode():
        return np.concatenate(
            [
                network(model.read_images(ids[part]).to(model.device)).float().cpu().numpy()
                for part in batches(len(ids), BATCH, "look at images")
            ]
        )


def fit_classifier(
    params: Params,
    run: Run,
    model: EvaluatedModel,
    parts: dict[str, Task],
    seed: int,
    probe: "nn.Linear",
) -> tuple[dict[str, np.ndarray], int]:
    """Train a classifier from the pre-trained weights.

    Returns its probabilities, [n, classes], on validation and test, and the step whose weights it has: the one of
    the best validation loss, 0 if none was better than the start.
    """
    import torch

    from medunifier.evaluation.classifier import Classifier, QueryEncoder, cross_entropy, probabilities
    from medunifier.training.checkpoints import Checkpoints, state_folder
    from medunifier.training.loop import Trainer
    from medunifier.training.recipe import Recipe

    p, training, held = params.finetune, parts["train"], parts["validate"]
    net = Classifier(copy.deepcopy(model.image_encoder()), probe.out_features)
    if p.head_start == "probe":
        net.head.load_state_dict(probe.state_dict())

    def load(rows: np.ndarray) -> "dict[str, torch.Tensor]":
        return {
            "images": model.read_images([training.ids[row] for row in rows]),
            "target": torch.from_numpy(training.target[rows]),
        }

    def loss(net, batch, generator):
        return cross_entropy(net(batch["images"]), batch["target"]), {}

    def validate(net: "nn.Module") -> dict[str, float]:
        logits = torch.from_numpy(encode(net, model, held.ids))
        return {"loss": cross_entropy(logits, torch.from_numpy(held.target)).item()}

    history = Trainer(
        net,
        Recipe.from_params(
            p,
            batch_size=min(p.batch_size, len(training)),
            learning_rate=p.head_learning_rate,
            seed=seed,
            checkpoint_every=p.validate_every,
            strict=isinstance(net.encoder, QueryEncoder),
        ),
        items=len(training),
        load=load,
        loss=loss,
        validate=validate,
        tracker=run,
        checkpoints=Checkpoints(state_folder(run.name, run.signature) / f"seed-{seed}"),
        groups=net.parameter_groups(p.learning_rate, p.head_learning_rate, p.weight_decay),
    ).run()
    losses = {row["step"]: row["loss"] for row in history.rows if row["split"] == "validate"}
    best = min(losses, key=losses.get)
    run.metrics({f"best_step_seed_{seed}": best, f"val_loss_seed_{seed}": losses[best]})
    if best == 0:
        start = "the linear probe" if p.head_start == "probe" else "a head of zeros"
        run.log(f"seed {seed}: no step lowers the validation loss: what counts as fine-tuned is {start}")
    net.eval()
    scores = {
        name: probabilities(torch.from_numpy(encode(net, model, parts[name].ids))).numpy()
        for name in ("validate", "test")
    }
    return scores, best


def predictions(
    test: Task, seed: int, classes: Sequence[str], tuned: np.ndarray, probed: np.ndarray
) -> pl.DataFrame:
    """The test images with their class and both classifiers' probabilities."""
    columns = {
        "image_id": test.ids,
        "patient_id": test.patients,
        "seed": [seed] * len(test),
        "class": [classes[number] for number in test.target],
    }
    for prefix, scores in (("p", tuned), ("probe_p", probed)):
        columns |= {f"{prefix}_{name}": scores[:, i].astype(np.float64) for i, name in enumerate(classes)}
    return pl.DataFrame(columns)


def test_items(
    test: Task, seeds: Sequence[int], tuned: list[dict[str, np.ndarray]], probed: list[dict[str, np.ndarray]]
) -> Iterator[pl.DataFrame]:
    """What each test image scored, for comparisons of models."""
    for prefix, found in (("", tuned), ("probe_", probed)):
        for seed, parts in zip(seeds, found, strict=True):
            scores = parts["test"]
            if scores.shape[1] == 2:
                how = {"positive": test.target == 1}
                yield item_rows(f"{prefix}auroc", test.ids, test.patients, scores[:, 1], seed=seed, **how)
            else:
                right = scores.argmax(1) == test.target
                yield item_rows(f"{prefix}accuracy", test.ids, test.patients, right, seed=seed)


def flat(judged: Judged, options: BootstrapOptions, prefix: str) -> dict[str, float | int]:
    """Flat metrics with intervals, chance levels and the spread between seeds."""
    metrics: dict[str, float | int] = {}
    for name, interval in judged.intervals(options).items():
        metrics |= interval.flat(prefix + name, scale=100)
    metrics |= {f"{prefix}{name}_chance": 100 * value for name, value in judged.chance.items()}
    metrics |= {f"{prefix}{name}_seed_sd": 100 * value for name, value in judged.spread().items()}
    return metrics | {f"{prefix}{name}": value for name, value in judged.thresholds.items()}


def draw(
    folder: Path, run: Run, labels: Sequence[str], target: np.ndarray, tuned: np.ndarray, probed: np.ndarray
) -> None:
    """ROC curves and reliability plots of the first seed, as SVG, and the curves' points as CSV."""
    from medunifier.results.plots import reliability_svg, roc_csv, roc_svg

    first = tuned.shape[1] - len(labels)  # a binary task has its one label in column 1
    for name, scores in (("finetuned", tuned), ("probe", probed)):
        curves = {label: (scores[:, i], target == i) for i, label in enumerate(labels, first)}
        (folder / f"roc_{name}.svg").write_text(roc_svg(curves), encoding="utf-8")
        (folder / f"roc_{name}.csv").write_text(roc_csv(curves), encoding="utf-8")
        (folder / f"reliability_{name}.svg").write_text(reliability_svg(scores, target), encoding="utf-8")
        for kind in ("roc", "reliability"):
            run.artifact(folder / f"{kind}_{name}.svg")


if __name__ == "__main__":
    run_stage(finetune, arguments=("variant", "dataset", "percent"))
