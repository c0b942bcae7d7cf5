"""The stage finetune on a tiny project: metrics that follow the truth, early stopping, bad input."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from medunifier.evaluation.classifier import QueryEncoder
from medunifier.evaluation.finetuning import encode
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_counts
from medunifier.metrics.classification import auroc
from medunifier.results.item_scores import read_items
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import MultiLabel
from medunifier.tracking import LocalRun
from medunifier.vision.feature_shards import write_feature_shard
from stages import finetune as stage
from stages.finetune import finetune
from tests.support.trained_project import DATASET, TOKENS, VARIANT, WIDTH, make_project

LABEL = "edema"  # even numbers are positive, see trained_project


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = make_project(tmp_path)
    evaluate = params.evaluate.replace(finetune={DATASET: (LABEL,)})
    quick = params.finetune.replace(steps=6, validate_every=2, batch_size=4, bootstrap=50)
    return params.replace(evaluate=evaluate, finetune=quick)


def run_finetune(params, percent="100") -> dict[str, float]:
    run = LocalRun(f"finetune@{VARIANT}-{DATASET}-{percent}", "results/metrics")
    finetune(params, run, VARIANT, DATASET, percent)
    return json.loads(run.metrics_path.read_text())


def show_the_label() -> None:
    """Features in which the class is plain to see."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(24, TOKENS, WIDTH)).astype(np.float16)
    features[::2, :, :4] += 2
    features[1::2, :, 4:] += 2
    ids = [f"i{n:02}" for n in range(24)]
    manifest = {"model": "none", "revision": None, "checksum": ""}
    write_feature_shard(f"data/features/{DATASET}/0", ids, [features], manifest)


def test_a_class_that_shows_is_found_by_both_classifiers(params):
    show_the_label()
    metrics = run_finetune(params)
    for prefix in ("", "probe_"):
        assert (
            metrics[f"{prefix}auroc"] == metrics[f"{prefix}auprc"] == metrics[f"{prefix}sensitivity"] == 100
        )
        assert metrics[f"{prefix}auroc_n"] == 8 and metrics[f"{prefix}auroc_chance"] == 50
    assert metrics["n_train_used"] == 12 and metrics["auprc_chance"] == 50
    folder = Path(f"results/finetune/{VARIANT}-{DATASET}-100")
    table = pl.read_parquet(folder / "predictions.parquet")
    assert table["image_id"].to_list() == [f"i{n}" for n in range(16, 24)]
    assert table["class"].to_list() == [LABEL, f"no_{LABEL}"] * 4
    sums = table["p_edema"] + table["p_no_edema"]
    assert sums.to_numpy() == pytest.approx(1)
    assert (table["p_edema"] > 0.5).to_list() == [True, False] * 4
    assert "AUROC 100.0 %" in (folder / "roc_finetuned.svg").read_text()
    assert (folder / "reliability_probe.svg").is_file()


@pytest.mark.slow
def test_zero_head_learns_and_ends_with_the_best_validation_loss(params):
    show_the_label()
    chosen = params.finetune.replace(
        head_start="zero", steps=40, patience=20, head_learning_rate=0.1, learning_rate=0.01
    )
    metrics = run_finetune(params.replace(finetune=chosen))
    assert metrics["auroc"] == 100
    assert metrics["best_step"] == metrics["best_step_seed_0"] > 0 and metrics[
        "val_loss_seed_0"
    ] < 0.5 < np.log(2)


@pytest.mark.slow
def test_a_start_that_no_step_improves_is_logged(params, capsys):
    show_the_label()
    spoilt = params.finetune.replace(learning_rate=1.0, head_learning_rate=1.0, seeds=(0, 1))
    metrics = run_finetune(params.replace(finetune=spoilt))
    assert metrics["best_step"] == metrics["best_step_seed_0"] == metrics["best_step_seed_1"] == 0
    assert "seed 1: no step lowers the validation loss: what counts as fine-tuned is the linear probe" in (
        capsys.readouterr().out
    )
    table = pl.read_parquet(f"results/finetune/{VARIANT}-{DATASET}-100/predictions.parquet")
    assert table["p_edema"].to_numpy() == pytest.approx(table["probe_p_edema"].to_numpy(), abs=1e-4)


@pytest.mark.slow
def test_what_does_not_depend_on_the_seed_is_encoded_once(params, monkeypatch):
    calls = []

    def counted(network, model, ids):
        if isinstance(network, QueryEncoder):
            calls.append(len(ids))
        return encode(network, model, ids)

    monkeypatch.setattr(stage, "encode", counted)
    seeds = params.finetune.replace(seeds=(0, 1, 2))
    run_finetune(params.replace(finetune=seeds), "50")
    assert sorted(calls) == [4, 6, 6, 6, 8], "validation, three training parts, test"


def test_the_threshold_is_chosen_on_validation(params, monkeypatch):
    """Scores that split the classes at 0.3 there, and at 0.6 in the test split."""

    def scores_of(negative: float, positive: float, n: int) -> np.ndarray:
        scores = np.where(np.arange(n) % 2 == 0, positive, negative)  # even numbers are positive
        return np.stack([1 - scores, scores], axis=1)

    scores = {"validate": scores_of(0.2, 0.4, 4), "test": scores_of(0.5, 0.7, 8)}
    monkeypatch.setattr(stage, "fit_linear_probe", lambda *_: (None, scores))
    monkeypatch.setattr(stage, "fit_classifier", lambda *_: (scores, 1))
    metrics = run_finetune(params)
    for prefix in ("", "probe_"):
        assert metrics[f"{prefix}threshold"] == pytest.approx(0.3)
        assert (metrics[f"{prefix}sensitivity"], metrics[f"{prefix}specificity"]) == (100, 0)
        assert (metrics[f"{prefix}sensitivity_n"], metrics[f"{prefix}specificity_n"]) == (4, 4)


def test_intervals_draw_patients(params):
    metrics = run_finetune(params)
    items = read_items(f"finetune@{VARIANT}-{DATASET}-100")
    options = BootstrapOptions(params.finetune.bootstrap, params.seed)
    for name in ("auroc", "probe_auroc"):
        rows = items.filter(metric=name)
        patients = rows["patient_id"].to_list()
        assert len(set(patients)) == 4 and len(patients) == 8
        values, positive = rows["value"].to_numpy(), rows["positive"].to_numpy()

        def score(counts, values=values, positive=positive):
            return auroc(values, positive, counts)[..., None]

        (found,) = bootstrap_counts(score, 8, options.with_clusters(patients))
        assert found.flat(name, scale=100) == pytest.approx(
            {key: metrics[key] for key in (name, f"{name}_ci_low", f"{name}_ci_high", f"{name}_n")}
        )
        (blind,) = bootstrap_counts(score, 8, options)
        assert (blind.low, blind.high) != pytest.approx((found.low, found.high))


@pytest.mark.slow
def test_several_labels_are_classes_that_exclude_each_other(params):
    show_the_label()
    evaluate = params.evaluate.replace(finetune={DATASET: ("edema", "cardiomegaly")})
    # two labels are two classes with an output each
    seeds = params.finetune.replace(seeds=(0, 1))
    metrics = run_finetune(params.replace(evaluate=evaluate, finetune=seeds), "50")
    assert metrics["accuracy"] == 100 and metrics["accuracy_chance"] == 50
    assert metrics["accuracy_seed_sd"] == 0 and metrics["n_train_used"] == 6


@pytest.mark.slow
def test_the_same_seed_gives_the_same_metrics(params):
    assert run_finetune(params, "10") == run_finetune(params, "10")


def test_missing_labels_and_classes_are_input_errors(params):
    wrong = params.evaluate.replace(finetune={DATASET: ("oedema",)})
    with pytest.raises(InputError, match=r"no column label_oedema; .*may name: edema, cardiomegaly"):
        run_finetune(params.replace(evaluate=wrong))
    path = f"data/prepared/{DATASET}/validate.parquet"
    pl.read_parquet(path).with_columns(label_edema=pl.lit(0, pl.Int8)).write_parquet(path)
    with pytest.raises(InputError, match=r"validate.parquet: classes .* have \[4, 0\] images"):
        run_finetune(params)


@pytest.mark.slow
def test_the_authors_fine_tuning(params):
    """Two linear layers from a random start, whole passes with a validation after each, all of them done."""
    show_the_label()
    theirs = {"head": "two_layers", "head_start": "random", "epochs": 5, "batch_size": 4, "decay_all": True}
    rates = {"learning_rate": 1e-4, "head_learning_rate": 1e-4, "weight_decay": 0.01, "patience": 1}
    metrics = run_finetune(params.replace(finetune=params.finetune.replace(**theirs, **rates)))
    assert metrics["auroc"] == 100
    assert metrics["best_step"] in {0, 3, 6, 9, 12, 15}  # 12 images, batches of 4, five passes
    assert metrics["best_step"] > 0


LABELS = ("edema", "cardiomegaly", "hernia")


def many_labels(params, **rule):
    """Labels that overlap: edema of even numbers, cardiomegaly of every third, hernia of pairs; some are not known."""
    show_the_label()
    for split, size, start in (("train", 12, 0), ("validate", 4, 12), ("test", 8, 16)):
        path = f"data/prepared/{DATASET}/{split}.parquet"
        numbers = range(start, start + size)
        heart = [int(n % 3 == 0) for n in numbers]
        hernia = [int(n // 2 % 2) for n in numbers]
        if split == "test":
            heart[1], heart[4] = None, -1
        columns = {"label_cardiomegaly": heart, "label_hernia": hernia}
        pl.read_parquet(path).with_columns(
            **{name: pl.Series(values, dtype=pl.Int8) for name, values in columns.items()}
        ).write_parquet(path)
    labels = MultiLabel(labels=LABELS, **rule)
    return params.replace(evaluate=params.evaluate.replace(finetune={DATASET: labels}))


def test_labels_that_do_not_exclude_each_other(params):
    metrics = run_finetune(many_labels(params, blank="ignore"))
    assert metrics["auroc_edema"] == metrics["probe_auroc_edema"] == 100
    assert metrics["n_test"] == metrics["macro_auroc_n"] == 8 and metrics["macro_auroc_chance"] == 50
    table = pl.read_parquet(f"results/finetune/{VARIANT}-{DATASET}-100/predictions.parquet")
    assert table["label_cardiomegaly"].to_list() == [0, None, 1, 0, None, 1, 0, 0]
    for prefix, column in (("", "p"), ("probe_", "probe_p")):
        aurocs = []
        for label in LABELS:
            known = table.filter(pl.col(f"label_{label}").is_not_null())
            positive = known[f"label_{label}"].to_numpy()
            auroc_here = 100 * roc_auc_score(positive, known[f"{column}_{label}"].to_numpy())
            assert metrics[f"{prefix}auroc_{label}"] == pytest.approx(auroc_here)
            assert metrics[f"{prefix}auroc_{label}_n"] == len(known)
            assert metrics[f"{prefix}sensitivity_{label}_n"] == positive.sum()
            called = known[f"{column}_{label}"].to_numpy() >= metrics[f"{prefix}threshold_{label}"]
            assert metrics[f"{prefix}f1_{label}"] == pytest.approx(
                100 * f1_score(positive, called, zero_division=0)
            )
            aurocs.append(auroc_here)
        assert metrics[f"{prefix}macro_auroc"] == pytest.approx(np.mean(aurocs))
    items = read_items(f"finetune@{VARIANT}-{DATASET}-100")
    sizes = items.group_by("metric", maintain_order=True).len()
    assert sizes["len"].to_list() == [8, 6, 8] * 2
    assert sizes["metric"].to_list()[:3] == [f"auroc_{label}" for label in LABELS]
    folder = Path(f"results/finetune/{VARIANT}-{DATASET}-100")
    roc = (folder / "roc_finetuned.svg").read_text()
    assert roc.count("AUROC") == 3 and "edema: AUROC 100.0 %" in roc
    assert (folder / "reliability_probe.svg").is_file()


def test_intervals_of_labels_draw_patients(params):
    metrics = run_finetune(many_labels(params))
    rows = read_items(f"finetune@{VARIANT}-{DATASET}-100").filter(metric="auroc_hernia")
    values, positive = rows["value"].to_numpy(), rows["positive"].to_numpy()
    options = BootstrapOptions(params.finetune.bootstrap, params.seed, rows["patient_id"].to_list())
    (found,) = bootstrap_counts(lambda counts: auroc(values, positive, counts)[..., None], 8, options)
    ends = [metrics[f"auroc_hernia_ci_{end}"] for end in ("low", "high")]
    assert ends == pytest.approx([100 * found.low, 100 * found.high])


def test_blanks_and_uncertain_labels_follow_the_rule(params):
    metrics = run_finetune(many_labels(params, blank="negative", uncertain="positive"))
    assert metrics["auroc_cardiomegaly_n"] == 8 and metrics["sensitivity_cardiomegaly_n"] == 3
    metrics = run_finetune(many_labels(params))
    assert metrics["auroc_cardiomegaly_n"] == 7 and metrics["sensitivity_cardiomegaly_n"] == 2


@pytest.mark.slow
def test_many_labels_over_seeds_and_parts(params):
    chosen = many_labels(params)
    seeds = chosen.replace(finetune=chosen.finetune.replace(seeds=(0, 1), head_start="zero"))
    metrics = run_finetune(seeds, "50")
    assert metrics["n_train_used"] == 6 and metrics["macro_auroc_seed_sd"] >= 0
    assert run_finetune(seeds, "50") == metrics
