"""Rows of the paper's tables: what is evaluated in another way than the paper's says so, or stands under its own name."""

import pytest

from medunifier.report.paper_tables import paper_tables
from tests.support.paper_cells import PHANTOMS, metrics_of, ours


def without_benchmark(params, name):
    dataset = params.datasets[name].replace(benchmark=None)
    return params.replace(datasets={**params.datasets, name: dataset})


def test_the_test_split_is_not_filed_as_the_papers_benchmark(params):
    tables = paper_tables(without_benchmark(params, "phantom"), metrics_of, PHANTOMS, "benchmark")
    for name in ("2", "3", "6", "A1"):
        filed = [c for c in ours(tables[name]) if c.dataset == "mimic_5x200" and "fine" not in c.metric]
        assert filed and all(c.value is None for c in filed), name
    assert "no data set of layout mimic_cxr is judged by a benchmark" in {c.note for c in ours(tables["2"])}
    two = [c for c in ours(tables["2"]) if c.dataset == "phantom"]
    assert {c.metric for c in two} == {c.metric for c in tables["2"]}
    assert all(c.note == "test split" for c in two)
    assert {c.value for c in two} == {metrics_of("retrieve@full-phantom")["i2t_map_at_1"]}


def test_zero_shot_of_a_test_split_is_not_filed_as_the_papers(params):
    tables = paper_tables(params, metrics_of, PHANTOMS, "test")
    assert all(c.value is None for c in ours(tables["A1"]) if c.metric == "zero_shot_accuracy")
    three = {c.dataset: c for c in ours(tables["3"]) if c.value is not None}
    assert set(three) == {"phantom", "phantom-chexpert", "phantom-rsna"}
    assert three["phantom"].note == f"test split, classes of {params.zero_shot.prompts}"
    assert {c.dataset for c in ours(tables["2"]) if c.value is not None} == {"mimic_5x200"}


def test_a_data_set_with_the_papers_name_is_no_exception(params):
    named = params.replace(
        datasets={"rsna": params.datasets["phantom-rsna"]},
        evaluate=params.evaluate.replace(finetune={}, zero_shot=("rsna",), retrieve=()),
    )
    three = [c for c in ours(paper_tables(named, metrics_of, PHANTOMS, "test")["3"]) if c.value is not None]
    assert [(c.dataset, c.data) for c in three] == [("rsna, ours", "rsna")]


def test_evaluations_that_the_paper_lacks_follow_under_their_own_names(params):
    own = params.datasets["phantom"].replace(layout="iu_xray")
    evaluate = params.evaluate.replace(
        finetune={"own": ("edema",), "phantom-rsna": ("edema", "pneumonia")},
        finetune_percents=(50, 100),
        zero_shot=("own",),
        retrieve=("own",),
    )
    changed = params.replace(datasets={**params.datasets, "own": own}, evaluate=evaluate)
    tables = paper_tables(changed, metrics_of, PHANTOMS, "benchmark")
    found = {
        name: {(c.dataset, c.metric, c.setting) for c in ours(tables[name]) if c.value is not None}
        for name in ("1", "2", "3")
    }
    assert found["1"] >= {("own", "auroc", "50%"), ("own", "auroc", "100%"), ("rsna", "accuracy", "50%")}
    assert found["2"] == {("own", f"{d}_map@{k}", "") for d in ("itr", "tir") for k in (1, 5, 10)}
    assert found["3"] == {("own", "accuracy", "")}
    (three,) = [c for c in ours(tables["3"]) if c.dataset == "own"]
    assert (three.value, three.data) == (metrics_of("zero_shot@full-own")["accuracy"], "own")


@pytest.mark.parametrize(
    ("steps", "start", "note"),
    [
        ((0, 0), "probe", "early stopping kept step 0: the linear probe"),
        ((0, 0), "zero", "early stopping kept step 0: a head of zeros"),
        ((8, 0), "probe", "early stopping kept step 0: the linear probe (1 of 2 seeds)"),
        ((8, 16), "probe", ""),
    ],
)
def test_what_fine_tuning_left_as_it_was_says_so(params, steps, start, note):
    changed = params.replace(finetune=params.finetune.replace(seeds=(0, 1), head_start=start))
    best = {f"best_step_seed_{seed}": step for seed, step in enumerate(steps)}
    tables = paper_tables(changed, lambda stage: metrics_of(stage) | best, PHANTOMS, "benchmark")
    # COVIDx's cells have a note on their lists besides
    one = [c for c in ours(tables["1"]) if c.value is not None and c.dataset != "covidx"]
    assert {c.note for c in one if c.method == "full, fine-tuned"} == {note}
    assert {c.note for c in one if c.method == "full, linear probe"} == {""}
    a1 = [c for c in ours(tables["A1"]) if c.value is not None and c.dataset != "covidx"]
    assert {c.note for c in a1 if c.metric.startswith("finetune")} == {note}
    assert {c.note for c in a1 if c.metric == "zero_shot_accuracy"} == {""}


def test_cells_of_covidx_say_which_lists_they_are_of(params):
    tables = paper_tables(params, metrics_of, PHANTOMS, "benchmark")
    cells = [
        c for name in ("1", "A1") for c in ours(tables[name]) if c.dataset == "covidx" and c.value is not None
    ]
    assert cells and {c.note for c in cells} == {"lists train_COVIDx9A.txt, test_COVIDx9A.txt"}


def test_a_benchmark_of_other_classes_or_another_rule_says_so(params):
    """The phantom's CheXpert 5x200 has consolidation, as GLoRIA's list; the paper has pneumonia (appendix 3)."""
    said = "classes: consolidation instead of the paper's pneumonia"
    three = {c.dataset: c.note for c in ours(paper_tables(params, metrics_of, PHANTOMS, "benchmark")["3"])}
    assert three == {"mimic_5x200": "", "chexpert_5x200": said, "rsna": ""}
    own = params.datasets["phantom"]
    strict = own.replace(benchmark=own.benchmark.replace(rule="strict", classes=own.benchmark.classes[:4]))
    changed = params.replace(datasets={**params.datasets, "phantom": strict})
    tables = paper_tables(changed, metrics_of, PHANTOMS, "benchmark")
    said = "classes: atelectasis, cardiomegaly, pneumonia, edema alone; chosen by rule strict, in the paper five_only"
    for name in ("2", "3", "6", "A1"):
        found = [
            c
            for c in ours(tables[name])
            if c.dataset == "mimic_5x200" and c.value is not None and not c.metric.startswith("finetune")
        ]
        assert found and {c.note for c in found} == {said}, name


def test_reconstructions_of_test_images_say_so(params):
    measured = {"fd_vit_reconstruction": 1.0, "fd_vit_validation": 1.0}
    tables = paper_tables(params, lambda stage: metrics_of(stage) | measured, PHANTOMS, "benchmark")
    notes = {c.setting: c.note for c in ours(tables["5"]) if c.value is not None}
    assert notes == {
        "reconstruction": "of held-out test images; the paper reconstructs training images",
        "validation": "",
    }
