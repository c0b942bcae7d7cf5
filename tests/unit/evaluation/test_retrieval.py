"""Retrieval items and their classes."""

import polars as pl

from medunifier.evaluation.retrieval import item_classes


def test_classes_of_a_data_set_without_benchmark():
    items = pl.DataFrame(
        {
            "report": ["one", "two", "none", "none", "several", "unknown"],
            "label_edema": [1, 0, 0, 0, 1, None],
            "label_pneumonia": [0, 1, 0, -1, 1, -1],
        }
    )
    assert item_classes(items) == [
        "label_edema",
        "label_pneumonia",
        "report: none",
        "report: none",
        "report: several",
        "report: unknown",
    ]
    assert item_classes(items.select("report"))[:2] == ["report: one", "report: two"]
