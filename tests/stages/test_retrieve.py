"""The stage retrieve: a model that knows the answer scores 100, the real one runs, bad input is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from medunifier.evaluation import loading
from medunifier.evaluation.loading import load_model, load_trained
from medunifier.evaluation.trained_model import TrainedModel
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means
from medunifier.results.item_scores import read_items
from medunifier.runtime.errors import InputError
from medunifier.storage.tables import PREPARED
from medunifier.tracking import LocalRun
from medunifier.vision.feature_shards import FeatureStore
from stages import retrieve as stage
from stages.retrieve import retrieve
from tests.support.recording_run import Noting
from tests.support.trained_project import DATASET, SPLITS, VARIANT, make_project

TEST = f"data/prepared/{DATASET}/test.parquet"


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path)


def run_retrieve(params) -> dict[str, float]:
    run = LocalRun(f"retrieve@{VARIANT}-{DATASET}", "results/metrics")
    retrieve(params, run, VARIANT, DATASET)
    return json.loads(run.metrics_path.read_text())


def knowing(direction: np.ndarray):
    """A stand-in for `load_model`: both towers put an item at the place that `direction` [n, P] gives it."""

    class Knowing(TrainedModel):
        def embed_images(self, ids):
            return np.repeat(direction[:, None], 2, axis=1)

        def embed_texts(self, texts):
            return direction

    return lambda params, variant, dataset: Knowing(
        None, None, None, stored=FeatureStore(f"data/features/{dataset}")
    )


def test_knowing_which_report_belongs_to_which_image_scores_100(params, monkeypatch):
    n = SPLITS["test"]
    classes = np.eye(2)[np.arange(n) % 2]
    own = 0.1 * np.eye(n)
    monkeypatch.setattr(stage, "load_model", knowing(np.hstack([classes, own]).astype(np.float32)))
    metrics = run_retrieve(params)
    for direction in ("i2t", "t2i"):
        assert metrics[f"{direction}_recall_at_1"] == 100
        assert metrics[f"{direction}_map_at_1"] == 100
        assert metrics[f"{direction}_map_at_5"] == 100  # 4 of each class, all of them first
        assert metrics[f"{direction}_map_release_at_10"] == 100
        assert metrics[f"{direction}_map_at_1_ci_low"] == 100
        assert metrics[f"{direction}_map_at_1_n"] == n
        assert metrics[f"{direction}_map_at_1_chance"] == pytest.approx(50)
        assert metrics[f"{direction}_recall_at_1_chance"] == pytest.approx(100 / n)
        assert metrics[f"{direction}_recall_at_10_chance"] == pytest.approx(100)
    assert (metrics["n_items"], metrics["n_classes"], metrics["n_reports"]) == (n, 2, n)


def test_the_real_model_is_ranked_by_its_own_similarity(params):
    metrics = run_retrieve(params)
    names = {name for name in metrics if not name.startswith("n_")}
    suffixes = ("", "_ci_low", "_ci_high", "_n", "_chance")
    measures = [f"{m}_at_{k}" for m in ("map", "map_release", "recall") for k in (1, 5, 10)]
    assert names == {f"{d}_{m}{s}" for d in ("i2t", "t2i") for m in measures for s in suffixes}

    import torch

    items = pl.read_parquet(TEST)
    rankings = pl.read_parquet(f"results/retrieval/{VARIANT}-{DATASET}/rankings.parquet")
    trained = load_trained(VARIANT, DATASET)
    with torch.no_grad():
        images = trained.model.encode_image(trained.features(items["image_id"].to_list()))[1]
        texts = torch.cat(
            [trained.model.encode_text(*trained.tokens([report]))[1] for report in items["report"]]
        )
    similarity = torch.einsum("nqp,mp->nqm", images, texts).amax(1).numpy()
    for direction, matrix in (("i2t", similarity), ("t2i", similarity.T)):
        found = rankings.filter(direction=direction)
        assert found["query_id"].to_list() == items["image_id"].to_list()
        best = np.sort(matrix, axis=1)[:, ::-1]
        assert np.array(found["scores"].to_list()) == pytest.approx(best, abs=1e-5)
        for number, row in enumerate(found.iter_rows(named=True)):
            place = [items["image_id"].to_list().index(image_id) for image_id in row["ranked_ids"]]
            assert matrix[number, place] == pytest.approx(row["scores"], abs=1e-5)
            assert row["relevant"] == [(p - number) % 2 == 0 for p in place]


def test_the_benchmark_is_taken_where_there_is_one(params):
    table = pl.read_parquet(TEST).with_columns(
        benchmark_class=pl.Series(["a", "b", "b", "b", "a", "a", "a", "a"])
    )
    table.write_parquet(TEST.replace("test", "benchmark"))
    metrics = run_retrieve(params)
    assert metrics["n_classes"] == 2
    assert metrics["i2t_map_at_1_chance"] == pytest.approx(100 * (5 * 5 + 3 * 3) / 8 / 8)


def test_items_without_report_or_image_are_counted_not_scored(params, capsys):
    table = pl.read_parquet(TEST)
    table = table.with_columns(
        report=pl.when(pl.col("image_id") == table["image_id"][0]).then(pl.lit(" ")).otherwise("report"),
        image_id=pl.when(pl.col("image_id") == table["image_id"][1])
        .then(pl.lit("lost"))
        .otherwise("image_id"),
    )
    table.write_parquet(TEST)
    metrics = run_retrieve(params)
    assert metrics["i2t_map_at_1_n"] == SPLITS["test"] - 2
    assert (metrics["n_without_report"], metrics["n_without_picture"]) == (1, 1)
    assert (
        "6 of 8 images are used; 1 have no report, 1 are not in data/features/phantom"
        in capsys.readouterr().out
    )


def test_no_usable_item_is_an_input_error(params):
    pl.read_parquet(TEST).with_columns(report=pl.lit(None, pl.String)).write_parquet(TEST)
    with pytest.raises(
        InputError, match=r"test.parquet: none of its 8 images can be used \(8 have no report"
    ):
        run_retrieve(params)
    pl.DataFrame(schema=PREPARED.columns).write_parquet(TEST)
    with pytest.raises(InputError, match=r"none of its 0 images"):
        run_retrieve(params)


def test_missing_model_features_or_table_is_an_input_error(params):
    shutil.move("models/full/model.safetensors", "elsewhere")
    with pytest.raises(InputError, match=r"model.safetensors missing\); run pretrain@full first"):
        run_retrieve(params)
    with open("models/full/model.safetensors", "wb") as file:
        file.write(b"half a model")
    with pytest.raises(InputError, match=r"models/full: not a whole model.*run pretrain@full again"):
        run_retrieve(params)
    shutil.rmtree(f"data/features/{DATASET}")
    with pytest.raises(InputError, match=r"run extract_features first"):
        run_retrieve(params)


def test_features_of_another_vit_are_an_input_error(params, monkeypatch):
    class Other:
        width, folder = 9, "data/features/other"

    monkeypatch.setattr(loading, "open_features", lambda dataset: Other())
    with pytest.raises(
        InputError, match="data/features/other: features are 9 wide, models/full was trained on 8"
    ):
        load_trained(VARIANT, "other")


def test_the_same_seed_gives_the_same_metrics(params):
    first = run_retrieve(params)
    assert run_retrieve(params) == first
    other = run_retrieve(params.replace(seed=1))
    assert other["i2t_map_at_5"] == first["i2t_map_at_5"]


def test_the_matching_head_re_ranks_the_first_candidates(params, monkeypatch):
    """A model without a clue whose matching head knows the very report."""
    reports = pl.read_parquet(TEST)
    own = dict(zip(reports["image_id"], reports["report"], strict=True))
    base = knowing(np.ones((SPLITS["test"], 3), np.float32))

    def load(params, variant, dataset):
        model = base(params, variant, dataset)

        class Matching(type(model)):
            def match(self, ids, texts):
                return np.array([10.0 * (own[i] == t) for i, t in zip(ids, texts, strict=True)])

        return Matching(None, None, None, stored=model.images, can_match=True)

    monkeypatch.setattr(stage, "load_model", load)
    chosen = params.retrieve.replace(rerank=8)
    metrics = run_retrieve(params.replace(retrieve=chosen))
    for direction in ("i2t", "t2i"):
        assert metrics[f"itm_{direction}_recall_at_1"] == 100 > metrics[f"{direction}_recall_at_1"]


def test_re_ranking_by_the_real_matching_head(params):
    chosen = params.retrieve.replace(rerank=4)
    metrics = run_retrieve(params.replace(retrieve=chosen))
    assert 0 <= metrics["itm_i2t_map_at_1"] <= 100 and "itm_t2i_recall_at_10_chance" in metrics

    table, items = pl.read_parquet(TEST), read_items(f"retrieve@{VARIANT}-{DATASET}")
    rankings = pl.read_parquet(f"results/retrieval/{VARIANT}-{DATASET}/rankings.parquet")
    model = load_model(params, VARIANT, DATASET)
    reports = dict(table.select("image_id", "report").iter_rows())
    for direction in ("i2t", "t2i"):
        plain, again = (rankings.filter(direction=name) for name in (direction, f"itm_{direction}"))
        assert again["query_id"].to_list() == table["image_id"].to_list()
        for query, first, later, scores, relevant in zip(
            plain["query_id"],
            plain.select("ranked_ids", "scores").iter_rows(),
            again["ranked_ids"],
            again["scores"],
            again["relevant"],
            strict=True,
        ):
            similar = dict(zip(*first, strict=True))
            pairs = [(query, other) if direction == "i2t" else (other, query) for other in later[:4]]
            odds = [model.match([image], [reports[text]])[0] for image, text in pairs]
            assert scores[:4].to_numpy() == pytest.approx(
                [similar[other] + o for other, o in zip(later[:4], odds, strict=True)], abs=1e-5
            )
            assert scores[:4].to_list() == sorted(scores[:4], reverse=True)
            assert later[4:].to_list() == first[0][4:] and sorted(later[:4]) == sorted(first[0][:4])
            assert relevant.to_list() == [(int(other[1:]) - int(query[1:])) % 2 == 0 for other in later]
        for metric in ("map_at_5", "recall_at_1"):
            of_queries = items.filter(metric=f"itm_{direction}_{metric}")["value"]
            assert 100 * of_queries.mean() == pytest.approx(metrics[f"itm_{direction}_{metric}"])


def test_examples_are_what_the_rankings_hold(params):
    """Texts of one query: its own, then those that were found first, each with the truth about its class."""
    folder = f"results/retrieval/{VARIANT}-{DATASET}"
    run = Noting(f"retrieve@{VARIANT}-{DATASET}", "results/metrics")
    chosen = params.replace(retrieve=params.retrieve.replace(rerank=4))
    retrieve(chosen, run, VARIANT, DATASET)
    assert run.artifacts == [f"{folder}/examples.md"]
    text = Path(run.artifacts[0]).read_text()
    blocks = [block.split("\n\n") for block in text.strip().split("\n\n## ")[1:]]
    assert len(blocks) == 4 * 6 and len({tuple(block) for block in blocks}) == 4 * 6
    reports = dict(pl.read_parquet(TEST).select("image_id", "report").iter_rows())
    rankings = pl.read_parquet(f"{folder}/rankings.parquet")
    kinds = {
        "i2t": ("Image {} asks for reports", "own report"),
        "t2i": ("The report of image {} asks for images", "report"),
        "itm_i2t": ("Image {} asks for reports, re-ranked by ITM", "own report"),
        "itm_t2i": ("The report of image {} asks for images, re-ranked by ITM", "report"),
    }
    expected = {}
    for row in rankings.iter_rows(named=True):
        heading, label = kinds[row["direction"]]
        query = row["query_id"]
        lines = [f"**{label}:** {reports[query]}"]
        for place, (other, same) in enumerate(zip(row["ranked_ids"][:3], row["relevant"], strict=False), 1):
            known = f"{'same' if same else 'another'} class{', the very report' if other == query else ''}"
            lines.append(f"**{place}. {other}, {known}:** {reports[other]}")
        expected[heading.format(query)] = lines
    assert all(lines == expected[heading] for heading, *lines in blocks)
    assert {"same class:", "another class:", "the very report:"} <= set(
        re.findall(r"\w+ \w+:|the very report:", text)
    )

    retrieve(chosen, run, VARIANT, DATASET)
    assert Path(run.artifacts[0]).read_text() == text
    retrieve(chosen.replace(seed=1), run, VARIANT, DATASET)
    assert Path(run.artifacts[0]).read_text() != text, "other examples"


@pytest.mark.parametrize("rerank", [None, 4])
def test_intervals_draw_patients(params, rerank):
    chosen = params.retrieve.replace(rerank=rerank)
    metrics = run_retrieve(params.replace(retrieve=chosen))
    options = BootstrapOptions(params.retrieve.bootstrap, params.seed)
    name = "itm_i2t_map_at_5" if rerank else "i2t_map_at_5"
    rows = read_items(f"retrieve@{VARIANT}-{DATASET}").filter(metric=name)
    patients = pl.read_parquet(TEST)["patient_id"].to_list()
    assert len(set(patients)) == len(patients) / 2
    (found,) = bootstrap_means(rows.select("value").to_numpy(), options.with_clusters(patients))
    assert found.flat(name, scale=100) == pytest.approx(
        {key: metrics[key] for key in (name, f"{name}_ci_low", f"{name}_ci_high", f"{name}_n")}
    )
    (blind,) = bootstrap_means(rows.select("value").to_numpy(), options)
    assert blind.low != pytest.approx(found.low)
