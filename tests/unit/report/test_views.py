"""Metrics within a view: against scikit-learn and plain means, on hand-made item scores."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from medunifier.report.views import read_views, within_views, write_views
from medunifier.results.item_scores import item_rows
from medunifier.runtime.params import load_params
from tests.support.paths import REPO

RNG = np.random.default_rng(0)
IDS, PATIENTS = [f"i{n}" for n in range(60)], [f"p{n // 2}" for n in range(60)]
VIEW = np.array(["PA"] * 36 + ["AP"] * 20 + ["LL"] * 4)
VIEWS = pl.DataFrame({"image_id": IDS, "view": VIEW}).sample(fraction=1, shuffle=True, seed=1)
POSITIVE = RNG.random(60) < np.where(VIEW == "AP", 0.8, 0.2)
SCORES = RNG.random(60) + (VIEW == "AP")  # knows the view and nothing else
PARAMS = load_params(REPO / "workflow/presets/nih-small.yaml")


def found_in(rows: pl.DataFrame, views: pl.DataFrame = VIEWS) -> dict[tuple[str, str], tuple[float, ...]]:
    lines = within_views(PARAMS, lambda _: rows, lambda _: views)
    own = [line for line in lines if line.evaluation == "finetune nih 100%"]
    return {(line.metric, line.view): (line.value, line.ci_low, line.ci_high, line.n) for line in own}


def test_what_goes_with_the_view_alone_does_not_count_within_it():
    over_all = 100 * roc_auc_score(POSITIVE, SCORES)
    assert over_all > 65
    found = found_in(item_rows("auroc", IDS, PATIENTS, SCORES, positive=POSITIVE))
    assert set(found) == {("auroc", "PA"), ("auroc", "AP")}, "four lateral images are too few"
    for (_, view), (value, low, high, n) in found.items():
        own = view == VIEW
        assert value == pytest.approx(100 * roc_auc_score(POSITIVE[own], SCORES[own]))
        assert value < over_all and low < value < high
        assert n == own.sum()


def test_means_are_over_the_images_and_the_seeds():
    values = [RNG.random(60) for _ in range(2)]
    rows = pl.concat(item_rows("accuracy", IDS, PATIENTS, v, seed=s) for s, v in enumerate(values))
    found = found_in(rows)
    assert found["accuracy", "PA"][0] == pytest.approx(100 * np.mean([v[VIEW == "PA"] for v in values]))


def test_a_view_of_one_class_has_no_auroc_and_one_view_alone_is_not_reported():
    rows = item_rows("auroc", IDS, PATIENTS, SCORES, positive=VIEW == "AP")
    assert found_in(rows) == {}
    assert found_in(rows, VIEWS.with_columns(view=pl.lit("PA"))) == {}
    assert found_in(rows, VIEWS.with_columns(view=pl.lit(None, pl.String))) == {}


def test_views_are_read_and_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, part in (("test", VIEWS[:40]), ("benchmark", VIEWS[30:])):
        path = tmp_path / f"data/prepared/nih/{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.with_columns(report=pl.lit("Clear.")).write_parquet(path)
    assert read_views("nih").sort("image_id").equals(VIEWS.sort("image_id"))
    rows = item_rows("auroc", IDS, PATIENTS, SCORES, positive=POSITIVE)
    write_views(within_views(PARAMS, lambda _: rows, read_views), tmp_path / "views.csv")
    written = pl.read_csv(tmp_path / "views.csv")
    assert written.filter(pl.col("view") == "PA", pl.col("n") == 36).height == 6  # evaluations of the preset
