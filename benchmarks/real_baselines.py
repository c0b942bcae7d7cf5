"""What the frozen encoder alone knows of a data set: the references of `benchmarks.real_data`.

All of it is computed in the folder of a finished run, from the mean of the encoder's grid of features: the nearest
training image, linear probes, and generated images beside real ones.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch

from medunifier.evaluation.classifier import fit_probe, probabilities
from medunifier.evaluation.finetuning import fit_linear_probe
from medunifier.evaluation.label_tasks import Task, nested_part
from medunifier.evaluation.loading import load_trained
from medunifier.image_scoring.encoding import ImageEncoder
from medunifier.image_scoring.image_batches import StoredImages
from medunifier.image_scoring.similarity import frechet_distance
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_counts
from medunifier.metrics.classification import auroc
from medunifier.runtime.params import Params
from medunifier.storage.tables import LABEL_PREFIX
from medunifier.synthesis.generated_sets import read_generated_sets
from medunifier.vision.image_features import open_features

SPLITS = ("train", "validate", "test")
# What the opening sentence of workflow/label_sentences.yaml says of an image.
OPENING = re.compile(
    r"(?:(?P<view>pa|ap|supine ap|lateral) )?chest radiograph"
    r"(?: of a (?:(?P<sex>female|male) )?patient(?: aged (?P<age>\d+ to \d+))?)?\."
)
Values = dict[str, list[float | int | None]]  # name -> value, ends of the 95 % confidence interval, and n; None: none


def opening_facts(text: str) -> dict[str, str | None]:
    """Return the view, the sex and the decade of age that the opening sentence of a report says, None where it does not."""
    found = OPENING.match(text.strip().lower())
    return found.groupdict() if found else dict.fromkeys(OPENING.groupindex)


def mean_features(dataset: str, ids: Sequence[str]) -> np.ndarray:
    """Return the mean of the encoder's grid for images of the run in the working directory, float32 [n, width]."""
    store = open_features(dataset)
    rows = store.rows(ids)
    parts = [store.read(rows[i : i + 64])[:, 1:].astype(np.float32).mean(1) for i in range(0, len(rows), 64)]
    return np.concatenate(parts)


def nearest_training(train: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the row of the training vector with the largest cosine to each of `others`, channels standardised, int64 [n]."""
    mean, scale = train.mean(0), train.std(0) + 1e-6
    units = [(v - mean) / scale for v in (train, others)]
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in units]
    return (units[1] @ units[0].T).argmax(1)


def probe_scores(
    vectors: Mapping[str, np.ndarray],
    tasks: Mapping[str, Task],
    rows: Mapping[str, np.ndarray],
    percent: int,
    seed: int,
) -> np.ndarray:
    """Return the test probabilities [n, classes] of a linear probe on the encoder's features, as `finetune` fits its own.

    Args:
        vectors: of all images of a split, by split.
        tasks: images of the task, by split.
        rows: rows of `vectors` of these images, by split.
        percent: of the training images, drawn as `finetune` draws them by `seed`.
        seed: of the training part.
    """
    part = nested_part(tasks["train"].target, percent, seed)
    parts = {**tasks, "train": tasks["train"].take(part)}
    chosen = {split: vectors[split][rows[split]] for split in SPLITS} | {
        "train": vectors["train"][rows["train"][part]]
    }
    outputs = int(tasks["train"].target.max()) + 1
    _, found = fit_linear_probe(chosen, parts, 1 if outputs == 2 else outputs)
    return found["test"]


def facts_of(table: pl.DataFrame) -> dict[str, np.ndarray]:
    """Return binary facts of images, each 1, 0, or -1 where it is unknown, int64 [n].

    The view (AP) and the sex (male) are those of the text from labels; every label with both values is a fact, too.
    """
    facts = {}
    opened = [opening_facts(report or "") for report in table["report"]]
    for name, key, yes, no in (("view AP", "view", "ap", "pa"), ("sex male", "sex", "male", "female")):
        facts[name] = np.array([{yes: 1, no: 0}.get(each[key] or "", -1) for each in opened])
    for column in table.columns:
        if column.startswith(LABEL_PREFIX):
            facts[column.removeprefix(LABEL_PREFIX).replace("_", " ")] = (
                table[column].fill_null(0).to_numpy().astype(int)
            )
    return {
        name: values for name, values in facts.items() if min((values == 1).sum(), (values == 0).sum()) >= 20
    }


def generated_images(params: Params, variant: str, tables: Mapping[str, pl.DataFrame]) -> Values:
    """Compare images generated from test reports with real ones, in the working directory's run.

    `fd SET`: Frechet distance to all test images in the mean features, of as many training images (`real`), of images
    generated from reports, and of images generated without text. `FACT`: AUROC of a linear probe, trained on real images, on
    the generated ones against what their prompt says; `FACT real`: on real test images, the most to be had.
    """
    dataset = params.pretrain.dataset
    vectors = {split: mean_features(dataset, table["image_id"].to_list()) for split, table in tables.items()}
    encoder = ImageEncoder(params.vision, load_trained(variant))
    sets = read_generated_sets(Path("data/generated") / variant)
    made = {name: encoder.encode(StoredImages(images)).means for name, (_, images) in sets.items()}
    size = min(len(made["reports"]), len(made["unconditional"]))
    compared = {"real": vectors["train"], "reports": made["reports"], "unconditional": made["unconditional"]}
    values: Values = {
        f"fd {name}": [frechet_distance(v[:size], vectors["test"]), None, None, size]
        for name, v in compared.items()
    }
    facts = {split: facts_of(table) for split, table in tables.items()}
    by_id = tables["test"].with_row_index("row").select("image_id", "row")
    sources = sets["reports"][0].join(
        by_id, left_on="source_id", right_on="image_id", how="left", maintain_order="left"
    )["row"]
    patients = tables["test"]["patient_id"].to_list()
    for name in set(facts["train"]) & set(facts["validate"]) & set(facts["test"]):
        known = {split: facts[split][name] >= 0 for split in ("train", "validate")}
        probe = fit_probe(
            *(
                part
                for split in known
                for part in (vectors[split][known[split]], facts[split][name][known[split]])
            ),
            1,
        )
        of_sources = sources.to_numpy()
        for label, inputs, truth, clusters in (
            (f"{name} real", vectors["test"], facts["test"][name], patients),
            (name, made["reports"], facts["test"][name][of_sources], [patients[row] for row in of_sources]),
        ):
            rows = np.flatnonzero(truth >= 0)
            if 0 < (truth[rows] == 1).sum() < len(rows):
                scores = probabilities(probe(torch.from_numpy(inputs[rows]))).detach().numpy()[:, 1]
                options = BootstrapOptions(1000, params.seed, [clusters[row] for row in rows])
                values[label] = area(scores, truth[rows] == 1, options)
    return values


def area(scores: np.ndarray, positive: np.ndarray, options: BootstrapOptions) -> list[float | int]:
    """Return the AUROC of scores [n] in percent, the ends of its confidence interval, and n."""
    (found,) = bootstrap_counts(
        lambda counts: auroc(scores, positive, counts)[..., None], len(scores), options
    )
    return [100 * found.value, 100 * found.low, 100 * found.high, found.n]
