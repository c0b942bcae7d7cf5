"""Labelled images for fine-tuning: nested parts, and which images have a class."""

import numpy as np
import polars as pl

from medunifier.evaluation.label_tasks import nested_part, read_task
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
