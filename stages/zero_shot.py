"""Stage zero_shot: images named by the class whose sentences are most like them (paper section 4.2, Table 3)."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medunifier.evaluation.class_prompts import ClassPrompts, PromptFile, read_prompts
from medunifier.evaluation.loading import load_model
from medunifier.evaluation.trained_model import EvaluatedModel
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.metrics.classification_scores import judge_exclusive
from medunifier.results.item_scores import item_rows, write_items
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import write_json
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.mapped_rows import MappedRows
from medunifier.storage.tables import BENCHMARK, PREPARED, read_table, write_table
from medunifier.tracking import Run

TEMPERATURE = 0.07  # turns similarities into shares; the most similar class is the same at any temperature


def zero_shot(params: Params, run: Run, variant: str, dataset: str) -> None:
    """Name the class of each benchmark image of DATASET with VARIANT, which saw no label.

    Classes and sentences come from `zero_shot.prompts`. `accuracy` is in percent and a mean over
    `zero_shot.seeds`, each of which draws its own sentences; `_seed_sd` is the spread between them. With
    `zero_shot.itm` the best sentence of each class is judged again by the matching head: `itm_accuracy`.
    """
    p = params.zero_shot
    file = read_prompts(p.prompts)
    model = load_model(params, variant, dataset)
    items, classes = read_items(dataset, file, model.images, run)
    ids = items["image_id"].to_list()
    target = np.array([[c.name for c in classes].index(name) for name in items["class"]], np.int64)
    run.metrics({"n_items": len(ids), "n_classes": len(classes)})

    images = model.embed_images(ids)
    drawn = {seed: [c.draw(p.prompts_per_class, seed) for c in classes] for seed in p.seeds}
    matching = p.itm and model.can_match
    if p.itm and not matching:
        run.log(f"no re-scoring: {variant} has no trained matching head")
    found: dict[str, list[np.ndarray]] = {"": [], "itm_": []}
    for sentences in drawn.values():
        scores, best = class_scores(model, images, sentences, p.aggregation)
        found[""].append(shares(scores))
        if matching:
            found["itm_"].append(matched(model, ids, sentences, best))

    folder = Path("results/zero_shot") / f"{variant}-{dataset}"
    digest = hashlib.sha256(file.path.read_bytes()).hexdigest()
    named = {str(seed): dict(zip([c.name for c in classes], s, strict=True)) for seed, s in drawn.items()}
    write_json(folder / "prompts.json", {"file": str(file.path), "sha256": digest, "drawn": named})
    write_table(predictions(items, classes, drawn, found), folder / "predictions.parquet", None)
    run.artifact(folder / "prompts.json")
    patients = items["patient_id"].to_list()
    write_items(
        run.name,
        [
            item_rows(f"{prefix}accuracy", ids, patients, scores.argmax(1) == target, seed=seed)
            for prefix, seeds in found.items()
            for seed, scores in zip(p.seeds, seeds, strict=bool(seeds))
        ],
    )
    options = BootstrapOptions(p.bootstrap, params.seed, patients)
    for prefix, scores in found.items():
        if scores:
            run.metrics(flat(scores, target, classes, options, prefix))


def read_items(
    dataset: str, file: PromptFile, store: MappedRows, run: Run
) -> tuple[pl.DataFrame, list[ClassPrompts]]:
    """The images to judge, with their `class`, and the classes in question.

    Raises InputError when the data set has no benchmark, a class has no prompts or no image, or a `where` does not
    fit the table.
    """
    folder = Path("data/prepared") / dataset
    if file.items == "benchmark":
        if not (folder / "benchmark.parquet").is_file():
            raise InputError(
                f"{file.path}: items is `benchmark`, but {dataset} has none; set datasets.{dataset}.benchmark in "
                "params.yaml, or give a prompt file with `items: test` and classes of your own"
            )
        source = folder / "benchmark.parquet"
        table = read_table(source, BENCHMARK)
        names = table["benchmark_class"].unique(maintain_order=True).to_list()
        if missing := [name for name in names if name not in file.classes]:
            raise InputError(
                f"{file.path}: no prompts for {', '.join(missing)}, classes of {dataset}'s benchmark; "
                f"it has {', '.join(file.classes)}"
            )
        items = table.with_columns(pl.col("benchmark_class").alias("class"))
    else:
        source = folder / "test.parquet"
        table = read_table(source, PREPARED)
        names = list(file.classes)
        items = of_one_class(table, file, run)
    present = pl.Series([image_id in store for image_id in items["image_id"]], dtype=pl.Boolean)
    run.metrics({"n_without_picture": len(items) - int(present.sum())})
    items = items.filter(present)
    for name in names:
        if name not in items["class"]:
            hint = f"its `where` is {dict(file.classes[name].where)}; change it, or take the class out"
            if file.items == "benchmark":
                hint = f"look at data/images/{dataset}/rejected.parquet"
            raise InputError(
                f"{file.path}: classes.{name}: no image of {source} is of this class alone and stored; {hint}"
            )
    return items, [file.classes[name] for name in names]


def of_one_class(table: pl.DataFrame, file: PromptFile, run: Run) -> pl.DataFrame:
    """The rows for which exactly one class of the file holds, with that `class`; the others are counted."""
    holds = []
    for c in file.classes.values():
        if missing := [column for column in c.where if column not in table.columns]:
            raise InputError(
                f"{file.path}: classes.{c.name}.where: the data set has no column {', '.join(missing)}; "
                f"it has {', '.join(table.columns)}"
            )
        conditions = [
            equals(table, column, value, f"{file.path}: classes.{c.name}.where.{column}")
            for column, value in c.where.items()
        ]
        holds.append(np.logical_and.reduce(conditions))
    matrix = np.stack(holds, axis=1)
    single = matrix.sum(1) == 1
    run.metrics(
        {
            "n_without_class": int((matrix.sum(1) == 0).sum()),
            "n_of_several_classes": int((matrix.sum(1) > 1).sum()),
        }
    )
    names = np.array(list(file.classes))[matrix.argmax(1)]
    return table.with_columns(pl.Series("class", names.tolist(), pl.String)).filter(pl.Series(single))


def equals(table: pl.DataFrame, column: str, value: Any, place: str) -> np.ndarray:
    """The rows, bool [n], in which `column` is `value`; None: in which it is blank.

    Raises InputError, naming `place`, for a value of another type than the column's.
    """
    if value is None:
        return table[column].is_null().to_numpy()
    of_text = table[column].dtype == pl.String
    if not isinstance(value, str if of_text else int | float):
        expected = "a text, in quotes" if of_text else "a number: 1 present, 0 absent, -1 uncertain"
        raise InputError(f"{place}: {value!r} does not fit the column; give it {expected}; or null: blank")
    return (table[column] == value).fill_null(False).to_numpy()


def class_scores(
    model: EvaluatedModel, images: np.ndarray, sentences: list[list[str]], aggregation: str
) -> tuple[np.ndarray, np.ndarray]:
    """Similarity of images to classes, float32 [n, C], and the number of each class's most similar sentence.

    Args:
        images: embeddings [n, Q, P]; the similarity to a text is the largest over Q.
        aggregation: over the sentences of a class, `max` or `mean` of similarities, or `ensemble`: similarity to
            the mean of their embeddings (Radford et al. 2021, section 3.1.4).
    """
    scores, best = [], []
    for texts in sentences:
        embedded = model.embed_texts(texts)  # (sentences, P)
        each = similarity(images, embedded)
        best.append(each.argmax(1))
        if aggregation == "ensemble":
            mean = embedded.mean(0, keepdims=True)
            scores.append(similarity(images, mean / np.linalg.norm(mean))[:, 0])
        else:
            scores.append(each.max(1) if aggregation == "max" else each.mean(1))
    return np.stack(scores, axis=1), np.stack(best, axis=1)


def similarity(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """[n, Q, P] and [m, P] -> [n, m]."""
    return (images @ texts.T).max(1)


def shares(scores: np.ndarray) -> np.ndarray:
    """Similarities [n, C] as shares that sum to 1 in each row."""
    raised = np.exp((scores - scores.max(1, keepdims=True)) / TEMPERATURE)
    return raised / raised.sum(1, keepdims=True)


def matched(
    model: EvaluatedModel, ids: list[str], sentences: list[list[str]], best: np.ndarray
) -> np.ndarray:
    """The matching head's judgement of each class's most similar sentence, as shares [n, C]."""
    columns = [
        model.match(ids, [texts[number] for number in best[:, i]]) for i, texts in enumerate(sentences)
    ]
    odds = np.stack(columns, axis=1)
    return shares(odds * TEMPERATURE)


def predictions(
    items: pl.DataFrame, classes: list[ClassPrompts], drawn: dict, found: dict[str, list[np.ndarray]]
) -> pl.DataFrame:
    """Each image under each seed: its class, the class it is given, and the shares of all."""
    frames = []
    for number, seed in enumerate(drawn):
        frame = items.select("image_id", "patient_id", pl.lit(seed).alias("seed"), "class")
        for prefix, seeds in found.items():
            if seeds:
                names = [classes[i].name for i in seeds[number].argmax(1)]
                shared = {f"{prefix}share_{c.name}": seeds[number][:, i] for i, c in enumerate(classes)}
                columns = [pl.Series(name, values.astype(np.float64)) for name, values in shared.items()]
                frame = frame.with_columns(pl.Series(f"{prefix}predicted", names), *columns)
        frames.append(frame)
    return pl.concat(frames)


def flat(
    scores: list[np.ndarray],
    target: np.ndarray,
    classes: list[ClassPrompts],
    options: BootstrapOptions,
    prefix: str,
) -> dict[str, float | int]:
    """Flat metrics in percent, with intervals, chance levels and the spread between seeds."""
    judged = judge_exclusive(scores, target, [c.name for c in classes])
    judged = dataclasses.replace(judged, names=tuple(name for name in judged.names if name != "ece"))
    intervals = judged.intervals(options)
    metrics: dict[str, float | int] = {}
    for name, interval in intervals.items():
        metrics |= interval.flat(prefix + name, scale=100)
    metrics |= {f"{prefix}{name}_seed_sd": 100 * value for name, value in judged.spread().items()}
    # Whoever does not look cannot do better than to name one class: the largest.
    return metrics | {f"{prefix}{name}_chance": 100 * value for name, value in judged.chance.items()}


if __name__ == "__main__":
    run_stage(zero_shot, arguments=("variant", "dataset"))
