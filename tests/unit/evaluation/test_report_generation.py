"""Baselines of report generation, and the labels against which findings are scored."""

import numpy as np
import polars as pl
import pytest

from medunifier.evaluation.loading import load_trained
from medunifier.evaluation.report_generation import finding_labels, nearest_reports
from tests.support.trained_project import DATASET, VARIANT, make_project, report_of


def test_nearest_report_is_the_most_similar_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)
    trained = load_trained(VARIANT, DATASET)
    ids = trained.images.image_ids[16:]
    reports = [report_of(n) for n in range(12)]
    images, texts = trained.embed_images(ids), trained.embed_texts(reports)
    similarity = np.array([[(image @ text).max() for text in texts] for image in images])
    found = [reports.index(report) for report in nearest_reports(trained, ids, reports)]
    # sums are rounded otherwise there: of two that are equal to the last place, either will do
    assert similarity[np.arange(len(ids)), found] == pytest.approx(similarity.max(1), abs=1e-6)
    assert np.ptp(similarity, axis=1).min() > 2e-5


def test_labels_of_known_findings():
    table = pl.DataFrame(
        {"label_edema": [1, None, -1], "label_gallstones": [1, 1, 1], "label_pneumonia": [0, 1, 0]}
    )
    findings, labels = finding_labels(table)
    assert findings == ("edema", "pneumonia")
    assert np.array_equal(labels, [[1, 0], [0, 1], [np.nan, 0]], equal_nan=True)
    assert finding_labels(table.select("label_gallstones"))[0] == ()


def test_labels_of_nih_and_kermany_are_known():
    labels = ("infiltration", "mass", "nodule", "hernia", "bacterial_pneumonia", "viral_pneumonia")
    table = pl.DataFrame({f"label_{name}": [1, 0] for name in labels})
    assert set(finding_labels(table)[0]) == set(labels)
