"""Labelled images of a split: one class for each image, or several labels that do not exclude each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.runtime.errors import InputError
from medunifier.runtime.params import MultiLabel
from medunifier.storage.mapped_rows import MappedRows
from medunifier.storage.tables import LABEL_PREFIX, PREPARED, read_table
from medunifier.tracking import LocalRun

IGNORED = -1  # value of a label that does not count for an image


@dataclass(frozen=True)
class Task:
    """Labelled images of one split.

    Attributes:
        ids: Image ids.
        patients: Their patients.
        target: Class numbers, int64 [n]; or, of labels that do not exclude each other, 1, 0 or IGNORED, int64 [n, L].
    """

    ids: list[str]
    patients: list[str]
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def many_labels(self) -> bool:
        """Whether the labels do not exclude each other."""
        return self.target.ndim == 2

    def take(self, rows: np.ndarray) -> "Task":
        """Return a selection of the rows."""
        return Task([self.ids[i] for i in rows], [self.patients[i] for i in rows], self.target[rows])


def read_task(
    dataset: str, split: str, labels: Sequence[str] | MultiLabel, store: MappedRows, run: LocalRun
) -> Task:
    """Read the images of a split that have a class: 0 or 1 in one label, or exactly one 1 among several.

    Of labels that do not exclude each other, those images that have a value in at least one. The others are counted
    in the metrics `SPLIT_without_class` and `SPLIT_without_picture`.

    Args:
        dataset: Data set.
        split: `train`, `validate` or `test`.
        labels: Names of labels (a single one makes a binary task), or labels that do not exclude each other.
        store: Images or image features of the data set.
        run: Receives the counts.

    Raises:
        InputError: If a label column is missing, or a class has no image, or a label no positive or negative one.
    """
    names = labels.labels if isinstance(labels, MultiLabel) else labels
    path = Path("data/prepared") / dataset / f"{split}.parquet"
    table = read_table(path, PREPARED)
    values = label_values(table, names, path, dataset)
    if isinstance(labels, MultiLabel):
        target = label_targets(values, labels)
        has_class = (target != IGNORED).any(1)
    else:
        target = class_numbers(values)
        has_class = target >= 0
    stored = np.array([image_id in store for image_id in table["image_id"]], bool)
    run.metrics(
        {
            f"{split}_without_class": int((~has_class).sum()),
            f"{split}_without_picture": int((has_class & ~stored).sum()),
        }
    )
    kept = np.flatnonzero(has_class & stored)
    rows = table[kept]
    task = Task(rows["image_id"].to_list(), rows["patient_id"].to_list(), target[kept])
    check = check_labels if task.many_labels else check_classes
    check(task.target, names, path, dataset)
    return task


def label_values(table: pl.DataFrame, labels: Sequence[str], path: Path, dataset: str) -> np.ndarray:
    """Return the values of labels, float64 [n, L]: 1, 0, -1, or NaN for a blank.

    Raises:
        InputError: If a column is missing.
    """
    columns = [LABEL_PREFIX + name for name in labels]
    if missing := [column for column in columns if column not in table.columns]:
        known = [c.removeprefix(LABEL_PREFIX) for c in table.columns if c.startswith(LABEL_PREFIX)]
        raise InputError(
            f"{path}: no column {', '.join(missing)}; the labels of {dataset} that params.yaml may name: "
            f"{', '.join(known)}"
        )
    return table.select(columns).to_numpy().astype(np.float64)


def class_numbers(values: np.ndarray) -> np.ndarray:
    """Return the class of each image, int64 [n]: the value of one label, or the only one of several that is 1; or -1."""
    if values.shape[1] == 1:
        return np.where(np.isin(values[:, 0], (0, 1)), values[:, 0], -1).astype(np.int64)
    return np.where((values == 1).sum(1) == 1, (values == 1).argmax(1), -1)


def label_targets(values: np.ndarray, rule: MultiLabel) -> np.ndarray:
    """Return 1, 0 or IGNORED for each label, int64 [n, L], by the rule for blanks and for uncertain labels (-1)."""
    meaning = {"positive": 1, "negative": 0, "ignore": IGNORED}
    target = np.where(values == -1, meaning[rule.uncertain], values)
    return np.where(np.isnan(target), meaning[rule.blank], target).astype(np.int64)


def check_classes(target: np.ndarray, labels: Sequence[str], path: Path, dataset: str) -> None:
    """Check that every class has an image.

    Raises:
        InputError: A class has none.
    """
    found = np.bincount(target, minlength=max(2, len(labels)))
    if (found == 0).any():
        raise InputError(
            f"{path}: classes of evaluate.finetune.{dataset} ({', '.join(labels)}) have {found.tolist()} images; "
            "each needs one in every split: look at data/prepared/*/summary.json, or choose other labels"
        )


def check_labels(target: np.ndarray, labels: Sequence[str], path: Path, dataset: str) -> None:
    """Check that every label has a positive and a negative image.

    Raises:
        InputError: A label lacks either; its AUROC would be undefined.
    """
    positives, negatives = (target == 1).sum(0), (target == 0).sum(0)
    lacking = [
        f"{name} ({p} positive, {n} negative)"
        for name, p, n in zip(labels, positives, negatives, strict=True)
        if p == 0 or n == 0
    ]
    if lacking:
        raise InputError(
            f"{path}: labels of {dataset} without a positive or a negative image: {', '.join(lacking)}; each needs "
            "one of either in every split: take these labels out in params.yaml, or change their rule for blanks"
        )


def nested_part(target: np.ndarray, percent: int, seed: int) -> np.ndarray:
    """Draw `percent` % of each class, at least one image: row numbers in ascending order.

    A larger part of the same seed contains every smaller one. Of labels that do not exclude each other, [n, L], an
    image counts for the rarest label that it has (`strata`).
    """
    rng = np.random.default_rng([seed, 1])
    classes = strata(target) if target.ndim == 2 else target
    chosen = []
    for number in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == number))
        chosen.append(rows[: max(1, round(len(rows) * percent / 100))])
    return np.sort(np.concatenate(chosen))


def strata(target: np.ndarray) -> np.ndarray:
    """Return the rarest label that each image has, int64 [n]: 1 to L, or 0 for an image with none.

    So that small parts hold rare labels, too.

    Args:
        target: 1, 0 or IGNORED, int64 [n, L].
    """
    positive = target == 1
    rank = positive.sum(0).argsort(kind="stable")  # the rarest label first
    by_rarity = positive[:, rank]
    return np.where(by_rarity.any(1), rank[by_rarity.argmax(1)] + 1, 0)
