"""Plots of classifiers: files that stand alone, with the points of scikit-learn's ROC curve."""

import xml.etree.ElementTree as ET

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from medunifier.results.plots import write_classifier_plots


def test_roc_curve_and_reliability_of_a_binary_task(tmp_path):
    rng = np.random.default_rng(0)
    target = np.arange(40) % 2
    positive = np.clip(rng.normal(0.4 + 0.2 * target, 0.2), 0, 1).round(2)  # some are equal
    paths = write_classifier_plots(
        tmp_path, ["edema"], target, {"probe": np.stack([1 - positive, positive], 1)}
    )
    assert [path.name for path in paths] == ["roc_probe.svg", "reliability_probe.svg"]
    assert all(ET.parse(path).getroot().tag.endswith("svg") for path in paths)
    area = 100 * roc_auc_score(target, positive)
    assert f"edema: AUROC {area:.1f} %" in paths[0].read_text()
    points = pl.read_csv(tmp_path / "roc_probe.csv")
    false, true, _ = roc_curve(target, positive, drop_intermediate=False)
    assert points["false_positive_rate"].to_numpy() == pytest.approx(false, abs=1e-5)
    assert points["true_positive_rate"].to_numpy() == pytest.approx(true, abs=1e-5)


def test_a_curve_for_each_of_several_classes(tmp_path):
    scores = np.random.default_rng(0).dirichlet(np.ones(3), 30)
    write_classifier_plots(tmp_path, ["a", "b", "c"], np.arange(30) % 3, {"finetuned": scores})
    assert pl.read_csv(tmp_path / "roc_finetuned.csv")["class"].unique(maintain_order=True).to_list() == [
        "a",
        "b",
        "c",
    ]
