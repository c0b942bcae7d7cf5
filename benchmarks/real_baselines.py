"""What the frozen encoder alone knows of a data set: the references of `benchmarks.real_data`.

All of it is computed in the folder of a finished run, from the mean of the encoder's grid of features: the nearest
training image and linear probes.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from medunifier.evaluation.finetuning import fit_linear_probe
from medunifier.evaluation.label_tasks import Task, nested_part
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_counts
from medunifier.metrics.classification import auroc
from medunifier.vision.image_features import open_features

SPLITS = ("train", "validate", "test")
# What the opening sentence of workflow/label_sentences.yaml says of an image.
OPENING = re.compile(
    r"(?:(?P<view>pa|ap|supine ap|lateral) )?chest radiograph"
    r"(?: of a (?:(?P<sex>female|male) )?patient(?: aged (?P<age>\d+ to \d+))?)?\."
)
Values = dict[
    str, list[float | int | None]
]  # name -> value, ends of the 95 % confidence interval, and n; None: none


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


def area(scores: np.ndarray, positive: np.ndarray, options: BootstrapOptions) -> list[float | int]:
    """Return the AUROC of scores [n] in percent, the ends of its confidence interval, and n."""
    (found,) = bootstrap_counts(
        lambda counts: auroc(scores, positive, counts)[..., None], len(scores), options
    )
    return [100 * found.value, 100 * found.low, 100 * found.high, found.n]
