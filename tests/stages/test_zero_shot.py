"""The stage zero_shot and its prompts: a model that knows scores 100, a user's own classes work, bad files are refused."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from medunifier.evaluation.class_prompts import read_prompts
from medunifier.evaluation.loading import load_model
from medunifier.evaluation.zero_shot_labels import draw_prompts, negated
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means
from medunifier.results.item_scores import read_items
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import MultiLabel
from medunifier.tracking import LocalRun
from medunifier.vision.feature_shards import FeatureStore
from stages import zero_shot as stage
from stages.zero_shot import zero_shot
from tests.support.trained_project import DATASET, REPOSITORY, VARIANT, make_project

SHIPPED = REPOSITORY / "workflow/zero_shot_prompts.yaml"
OWN = """
items: test
classes:
  wet_lung: {where: {label_edema: 1}, prompts: ["fluid in the lung", "wet lung", "wet lung here"]}
  cardiomegaly: {severity: ["", severe], subtype: [cardiomegaly], location: [""]}
"""


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = make_project(tmp_path)
    Path("own.yaml").write_text(OWN)
    chosen = params.zero_shot.replace(prompts="own.yaml", bootstrap=50)
    return params.replace(zero_shot=chosen)


def run_zero_shot(params, **changes) -> dict[str, float]:
    params = params.replace(zero_shot=params.zero_shot.replace(**changes))
    run = LocalRun(f"zero_shot@{VARIANT}-{DATASET}", "results/metrics")
    zero_shot(params, run, VARIANT, DATASET)
    return json.loads(run.metrics_path.read_text())


class Knowing:
    """Puts images and prompts of one class at the same place."""

    can_match = True

    def __init__(self):
        self.images = FeatureStore(f"data/features/{DATASET}")

    def embed_images(self, ids):
        return np.stack([np.eye(2, dtype=np.float32)[[int(i[1:]) % 2] * 3] for i in ids])

    def embed_texts(self, texts):
        return np.eye(2, dtype=np.float32)[[int("cardiomegaly" in text) for text in texts]]

    def check_prompt(self, text, where):
        """Every word is known."""

    def match(self, ids, texts):
        """Wrong on purpose, so that it cannot be taken for the similarity."""
        return np.array(
            [float((int(i[1:]) % 2 == 1) != ("cardiomegaly" in t)) for i, t in zip(ids, texts, strict=True)]
        )


@pytest.mark.parametrize("aggregation", ["max", "mean", "ensemble"])
def test_a_model_that_knows_scores_100(params, monkeypatch, aggregation):
    monkeypatch.setattr(stage, "load_model", lambda *_: Knowing())
    metrics = run_zero_shot(params, aggregation=aggregation, itm=True)
    assert metrics["accuracy"] == metrics["accuracy_ci_low"] == metrics["macro_auroc"] == 100
    assert metrics["accuracy_chance"] == 50 and metrics["accuracy_n"] == metrics["n_items"] == 8
    assert metrics["sensitivity_wet_lung"] == 100 and metrics["sensitivity_wet_lung_n"] == 4
    assert metrics["accuracy_seed_sd"] == 0
    assert metrics["itm_accuracy"] == 0, "the stand-in's matching head is always wrong"
    table = pl.read_parquet(f"results/zero_shot/{VARIANT}-{DATASET}/predictions.parquet")
    assert (table["predicted"] == table["class"]).all() and len(table) == 8 * 3


def test_the_real_model_runs_and_its_matching_head_too(params):
    metrics = run_zero_shot(params, itm=True)
    assert 0 <= metrics["accuracy"] <= 100 and 0 <= metrics["itm_accuracy"] <= 100
    assert run_zero_shot(params, itm=True) == metrics


def test_prompts_of_unknown_words_are_named_and_refused_if_all_are(params, capsys):
    Path("own.yaml").write_text(OWN.replace('"wet lung",', '"漢字",'))
    run_zero_shot(params)
    assert "own.yaml: classes.wet_lung.prompts: no known word in the prompt '漢字'" in capsys.readouterr().out
    classes = "a: {where: {label_edema: 1}, prompts: [漢]}, b: {where: {label_edema: 0}, prompts: [字]}"
    Path("own.yaml").write_text(f"items: test\nclasses: {{{classes}}}\n")
    with pytest.raises(InputError, match=r"own\.yaml: classes\.a\.prompts: no known word in the prompt '漢'"):
        run_zero_shot(params)


def test_a_variant_without_matching_is_not_re_scored(params, capsys):
    variants = {VARIANT: params.variants[VARIANT].replace(itm=0.0)}
    metrics = run_zero_shot(params.replace(variants=variants), itm=True)
    assert "itm_accuracy" not in metrics and "no trained matching head" in capsys.readouterr().out


def test_intervals_draw_patients(params):
    metrics = run_zero_shot(params, itm=True)
    items = read_items(f"zero_shot@{VARIANT}-{DATASET}")
    for name in ("accuracy", "itm_accuracy"):
        rows = items.filter(metric=name).group_by("item_id", "patient_id", maintain_order=True)
        rows = rows.agg(pl.col("value").mean())  # over the seeds
        patients, values = rows["patient_id"].to_list(), rows.select("value").to_numpy()
        assert len(set(patients)) == 4 and len(patients) == 8
        options = BootstrapOptions(50, params.seed)
        (found,) = bootstrap_means(values, options.with_clusters(patients))
        assert found.flat(name, scale=100) == pytest.approx(
            {key: metrics[key] for key in (name, f"{name}_ci_low", f"{name}_ci_high", f"{name}_n")}
        )
        (blind,) = bootstrap_means(values, options)
        assert (blind.low, blind.high) != pytest.approx((found.low, found.high))


def test_matching_is_that_of_the_model(params):
    import torch

    model = load_model(params, VARIANT, DATASET)
    ids, texts = ["i00", "i05"], ["large effusion", "no pneumothorax"]
    with torch.no_grad():
        logits = model.model.match(model.features(ids), *model.tokens(texts))
    assert model.match(ids, texts) == pytest.approx((logits[:, 1] - logits[:, 0]).numpy(), abs=1e-5)


def test_benchmark_items(params):
    table = pl.read_parquet(f"data/prepared/{DATASET}/test.parquet")
    names = pl.Series(["edema", "cardiomegaly"] * 4)
    table.with_columns(benchmark_class=names).write_parquet(f"data/prepared/{DATASET}/benchmark.parquet")
    metrics = run_zero_shot(params, prompts=str(SHIPPED))
    assert metrics["n_items"] == 8 and metrics["n_classes"] == 2
    Path("one.yaml").write_text(SHIPPED.read_text().replace("  edema:", "  oedema:"))
    with pytest.raises(InputError, match=r"no prompts for edema, classes of phantom's benchmark"):
        run_zero_shot(params, prompts="one.yaml")
    Path(f"data/prepared/{DATASET}/benchmark.parquet").unlink()
    with pytest.raises(InputError, match=r"items is `benchmark`, but phantom has none"):
        run_zero_shot(params, prompts=str(SHIPPED))


def test_images_of_no_class_or_several_are_counted(params):
    path = f"data/prepared/{DATASET}/test.parquet"
    table = pl.read_parquet(path)
    heart = table["label_cardiomegaly"].to_list()
    heart[0], heart[1] = 1, None  # the first has both, the second none
    table.with_columns(label_cardiomegaly=pl.Series(heart, dtype=pl.Int8)).write_parquet(path)
    metrics = run_zero_shot(params)
    assert (metrics["n_items"], metrics["n_of_several_classes"], metrics["n_without_class"]) == (6, 1, 1)
    Path("own.yaml").write_text(OWN.replace("label_edema", "label_oedema"))
    with pytest.raises(InputError, match=r"classes.wet_lung.where: the data set has no column label_oedema"):
        run_zero_shot(params)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "label_edema: 'yes'",
            r"where.label_edema: 'yes' does not fit the column; give it a number: 1 present",
        ),
        ("label_edema: [1]", r"where.label_edema: \[1\] does not fit the column; give it a number"),
        ("view: 1", "where.view: 1 does not fit the column; give it a text, in quotes"),
        ("view: [PA]", r"where.view: \['PA'\] does not fit the column; give it a text"),
        (
            "label_edema: 7",
            "no image of data/prepared/phantom/test.parquet is of this class alone .*edema': 7}; change it",
        ),
    ],
)
def test_a_where_that_cannot_hold_is_refused(params, where, message):
    Path("own.yaml").write_text(OWN.replace("label_edema: 1", where))
    with pytest.raises(InputError, match=f"own.yaml: classes.wet_lung.*{message}"):
        run_zero_shot(params)


def test_null_is_a_blank(params):
    path = f"data/prepared/{DATASET}/test.parquet"
    table = pl.read_parquet(path)
    blank = pl.Series([None if value else 0 for value in table["label_edema"]], dtype=pl.Int8)
    table.with_columns(label_edema=blank).write_parquet(path)
    Path("own.yaml").write_text(OWN.replace("label_edema: 1", "label_edema: null"))
    assert run_zero_shot(params)["n_items"] == 8
    found = pl.read_parquet(f"results/zero_shot/{VARIANT}-{DATASET}/predictions.parquet")
    of_class = found.filter(pl.col("class") == "wet_lung")["image_id"].unique().sort()
    assert of_class.to_list() == table.filter(label_edema=1)["image_id"].to_list()


def test_a_class_whose_images_are_not_stored_is_refused(params):
    path = f"data/prepared/{DATASET}/test.parquet"
    table = pl.read_parquet(path)
    table.with_columns(
        image_id=pl.when(label_edema=1).then(pl.lit("gone ") + pl.col("image_id")).otherwise("image_id")
    ).write_parquet(path)
    with pytest.raises(InputError, match=r"own.yaml: classes.wet_lung: no image of"):
        run_zero_shot(params)
    pl.read_parquet(path).with_columns(
        benchmark_class=pl.Series(["edema", "cardiomegaly"] * 4)
    ).write_parquet(path.replace("test", "benchmark"))
    with pytest.raises(InputError, match=r"classes.edema: no image of .*benchmark.parquet.*rejected.parquet"):
        run_zero_shot(params, prompts=str(SHIPPED))


NAMED = {"no_pneumonia": "pneumonia", "covid_19": "covid-19"}


def test_every_shipped_prompt_names_its_class():
    file = read_prompts(SHIPPED)
    assert {"atelectasis", "cardiomegaly", "consolidation", "pneumonia", "edema", "pleural_effusion"} < set(
        file.classes
    )
    for name, c in file.classes.items():
        assert len(c.prompts) >= 5
        assert all(NAMED.get(name, name.replace("_", " ")) in text.lower() for text in c.prompts), name


def test_drawing_is_seeded_and_per_class():
    c = read_prompts(SHIPPED).classes["edema"]
    assert len(c.prompts) == 4 * 4 * 3
    drawn = c.draw(15, 0)
    assert len(set(drawn)) == 15 and drawn == c.draw(15, 0) != c.draw(15, 1)
    assert c.draw(None, 0) == list(c.prompts) == c.draw(1000, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a", "expected the keys `items` and `classes`"),
        ("items: all\nclasses: {a: {prompts: [b]}, c: {prompts: [d]}}", "items is 'all', expected benchmark"),
        ("items: test\nclasses: {a: {prompts: [b]}}", "1 classes; at least 2"),
        ("items: test\nclasses: {a: {prompts: []}, b: {}}", "classes.a.prompts: expected a list of texts"),
        ("items: test\nclasses: {a: {severity: [b]}, b: {}}", "classes.a: has severity; expected `prompts`"),
        ("items: test\nclasses: {a: {prompts: [' ']}, b: {}}", "classes.a: all its prompts are empty"),
        (
            "items: test\nclasses: {a: {prompts: [b], where: x}, c: {}}",
            "classes.a.where: expected columns",
        ),
        ("items: [", "not valid YAML"),
    ],
)
def test_wrong_files_are_told(tmp_path, content, message):
    path = tmp_path / "prompts.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match="prompts.yaml.*" + message.replace("[", r"\[")):
        read_prompts(path)


class TwoLabels(Knowing):
    """Knows two labels that overlap: edema of even numbers, cardiomegaly of every third."""

    def embed_images(self, ids):
        numbers = [int(i[1:]) for i in ids]
        return np.array([[[n % 2 == 0, n % 2 == 1, n % 3 == 0, n % 3 > 0]] for n in numbers], np.float32)

    def embed_texts(self, texts):
        places = [2 * ("cardiomegaly" in text) + (text.startswith("no ")) for text in texts]
        return np.eye(4, dtype=np.float32)[places]


def two_labels(params, **rule):
    for split, start, size in (("validate", 12, 4), ("test", 16, 8)):
        path = f"data/prepared/{DATASET}/{split}.parquet"
        heart = pl.Series([int(n % 3 == 0) for n in range(start, start + size)], dtype=pl.Int8)
        pl.read_parquet(path).with_columns(label_cardiomegaly=heart).write_parquet(path)
    labels = {DATASET: MultiLabel(labels=("edema", "cardiomegaly"), **rule)}
    return params.replace(zero_shot=params.zero_shot.replace(multi_label=labels, prompts=str(SHIPPED)))


def test_a_model_that_knows_several_labels_scores_100_in_each(params, monkeypatch):
    monkeypatch.setattr(stage, "load_model", lambda *_: TwoLabels())
    metrics = run_zero_shot(two_labels(params), itm=True)
    for name in ("macro_auroc", "auroc_edema", "auroc_cardiomegaly", "macro_f1", "specificity_cardiomegaly"):
        assert metrics[name] == 100, name
    assert metrics["n_items"] == 8 and metrics["n_labels"] == 2 and "accuracy" not in metrics
    assert metrics["sensitivity_cardiomegaly_n"] == 2 and metrics["itm_auroc_edema"] != 100
    table = pl.read_parquet(f"results/zero_shot/{VARIANT}-{DATASET}/predictions.parquet")
    assert len(table) == 8 * 3 and table["label_edema"].to_list()[:4] == [1, 0, 1, 0]
    assert (table["p_edema"] > 0.5).to_list()[:4] == [True, False, True, False]
    drawn = json.loads(Path(f"results/zero_shot/{VARIANT}-{DATASET}/prompts.json").read_text())["drawn"]["0"]
    positive, negative = drawn["edema"]
    assert negative == [f"no {text}" for text in positive] and len(positive) == 15


def test_zero_shot_by_label_agrees_with_scikit_learn(params):
    metrics = run_zero_shot(two_labels(params), itm=True, seeds=(5,))
    table = pl.read_parquet(f"results/zero_shot/{VARIANT}-{DATASET}/predictions.parquet")
    for prefix in ("", "itm_"):
        aurocs = [
            100 * roc_auc_score(table[f"label_{label}"], table[f"{prefix}p_{label}"])
            for label in ("edema", "cardiomegaly")
        ]
        assert [metrics[f"{prefix}auroc_{label}"] for label in ("edema", "cardiomegaly")] == pytest.approx(
            aurocs
        )
        assert metrics[f"{prefix}macro_auroc"] == pytest.approx(np.mean(aurocs))
    rows = read_items(f"zero_shot@{VARIANT}-{DATASET}")
    assert set(rows["metric"]) == {
        f"{prefix}auroc_{label}" for prefix in ("", "itm_") for label in ("edema", "cardiomegaly")
    }


def test_a_class_of_absence_in_the_file_counts_first():
    file = read_prompts(SHIPPED)
    drawn = draw_prompts(file, ("pneumonia", "hernia"), 3, 0)
    assert set(drawn["pneumonia"][1]) <= set(file.classes["no_pneumonia"].prompts)
    assert drawn["hernia"][1] == [f"no {text}" for text in drawn["hernia"][0]]
    assert negated("PA chest radiograph. There is edema.") == "PA chest radiograph. There is no edema."
    with pytest.raises(InputError, match=r"zero_shot_prompts.yaml: no prompts for oedema, labels of"):
        draw_prompts(file, ("oedema",), 3, 0)


def test_there_are_prompts_for_the_labels_of_chestxray14():
    """Wang et al. 2017, table 1."""
    known = set(read_prompts(SHIPPED).classes)
    assert known >= {
        "atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion", "emphysema", "fibrosis", "hernia",
        "infiltration", "mass", "nodule", "pleural_thickening", "pneumonia", "pneumothorax",
    }  # fmt: skip
