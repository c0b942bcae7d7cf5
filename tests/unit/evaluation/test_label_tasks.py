"""Labelled images: nested parts, which images have a class, and rules for blank and uncertain labels."""

import numpy as np
import polars as pl
import pytest

from medunifier.evaluation.label_tasks import label_targets, nested_part, read_task, strata
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import MultiLabel
from medunifier.tracking import LocalRun
from medunifier.vision.feature_shards import FeatureStore
from tests.support.trained_project import DATASET, make_project


def test_parts_are_nested_stratified_and_seeded():
    target = np.array([0] * 90 + [1] * 10)
    parts = {percent: nested_part(target, percent, 3) for percent in (1, 10, 50, 100)}
    assert set(parts[1]) < set(parts[10]) < set(parts[50]) < set(parts[100]) == set(range(100))
    assert [np.bincount(target[part]).tolist() for part in parts.values()] == [
        [1, 1],  # at least one of each
        [9, 1],
        [45, 5],
        [90, 10],
    ]
    assert not np.array_equal(parts[10], nested_part(target, 10, 4))


def test_rows_without_class_or_image_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)
    path = f"data/prepared/{DATASET}/test.parquet"
    table = pl.read_parquet(path)
    changed = table.with_columns(
        label_edema=pl.Series([None, -1, *table["label_edema"].to_list()[2:]], dtype=pl.Int8),
        image_id=pl.Series([*table["image_id"].to_list()[:-1], "gone"]),
    )
    changed.write_parquet(path)
    run = LocalRun("finetune@x", "results/metrics")
    task = read_task(DATASET, "test", ["edema"], FeatureStore(f"data/features/{DATASET}"), run)
    assert task.ids == [f"i{n}" for n in range(18, 23)] and task.target.tolist() == [1, 0, 1, 0, 1]
    assert run.final == {"test_without_class": 2, "test_without_picture": 1}


BLANK = float("nan")


@pytest.mark.parametrize(
    ("blank", "uncertain", "expected"),
    [
        ("negative", "ignore", [1, 0, -1, 0]),
        ("negative", "positive", [1, 0, 1, 0]),
        ("negative", "negative", [1, 0, 0, 0]),
        ("ignore", "ignore", [1, 0, -1, -1]),
        ("ignore", "positive", [1, 0, 1, -1]),
    ],
)
def test_blank_and_uncertain_labels_follow_their_rule(blank, uncertain, expected):
    rule = MultiLabel(labels=("a", "b", "c", "d"), blank=blank, uncertain=uncertain)
    assert label_targets(np.array([[1.0, 0.0, -1.0, BLANK]]), rule).tolist() == [expected]


def test_by_default_a_blank_is_negative_and_uncertain_is_ignored():
    assert label_targets(np.array([[-1.0, BLANK]]), MultiLabel(labels=("a", "b"))).tolist() == [[-1, 0]]


def test_an_image_counts_for_its_rarest_label():
    target = np.array([[1, 0, 0]] * 6 + [[1, 1, 0]] * 2 + [[1, 1, 1]] + [[0, 0, -1]] * 3)
    assert strata(target).tolist() == [1] * 6 + [2] * 2 + [3] + [0] * 3


def test_parts_of_many_labels_are_nested_and_hold_rare_ones():
    rng = np.random.default_rng(0)
    target = (rng.random((1000, 4)) < (0.5, 0.2, 0.05, 0.004)).astype(np.int64)
    parts = {percent: set(nested_part(target, percent, 3)) for percent in (1, 10, 100)}
    assert parts[1] < parts[10] < parts[100] == set(range(1000))
    assert 10 <= len(parts[1]) <= 14 and 98 <= len(parts[10]) <= 102
    assert all(target[sorted(part)].sum(0).min() >= 1 for part in parts.values())


def write_labels(split, **labels):
    path = f"data/prepared/{DATASET}/{split}.parquet"
    pl.read_parquet(path).with_columns(**{
        f"label_{name}": pl.Series(values, dtype=pl.Int8) for name, values in labels.items()
    }).write_parquet(path)  # fmt: skip


def test_images_with_no_known_label_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)
    edema, heart = [None, -1, 1, 0, None, 1, 0, 1], [None, None, 1, 0, 1, 0, 1, 0]
    write_labels("test", edema=edema, cardiomegaly=heart)
    run = LocalRun("finetune@x", "results/metrics")
    rule = MultiLabel(labels=("edema", "cardiomegaly"), blank="ignore")
    task = read_task(DATASET, "test", rule, FeatureStore(f"data/features/{DATASET}"), run)
    assert task.ids == [f"i{n}" for n in range(18, 24)] and task.many_labels
    assert task.target.tolist() == [[1, 1], [0, 0], [-1, 1], [1, 0], [0, 1], [1, 0]]
    assert run.final == {"test_without_class": 2, "test_without_picture": 0}


def test_a_label_without_a_positive_or_negative_image_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)
    write_labels("test", edema=[0] * 8, cardiomegaly=[1] * 7 + [-1])
    store, run = FeatureStore(f"data/features/{DATASET}"), LocalRun("finetune@x", "results/metrics")
    message = (
        r"test.parquet: labels of phantom without .*: edema \(0 positive, 8 negative\), "
        r"cardiomegaly \(7 positive, 0 negative\); .* take these labels out"
    )
    with pytest.raises(InputError, match=message):
        read_task(DATASET, "test", MultiLabel(labels=("edema", "cardiomegaly")), store, run)
    with pytest.raises(InputError, match="no column label_mass; the labels of phantom"):
        read_task(DATASET, "test", MultiLabel(labels=("edema", "mass")), store, run)
