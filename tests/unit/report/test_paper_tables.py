"""The paper's tables: every published cell as printed, ours from the metrics, nothing invented."""

import csv
import re

import pytest

from medunifier.report.our_cells import objectives_of
from medunifier.report.paper_section import paper_section
from medunifier.report.paper_tables import TITLES, paper_tables, published, write_tables
from medunifier.runtime.params import Variant, load_params
from tests.support.paper_cells import PHANTOMS, metrics_of, ours
from tests.support.paths import REPO


def test_every_published_cell_is_there_as_printed(params):
    tables = paper_tables(params, metrics_of, PHANTOMS, "benchmark")
    assert list(tables) == list(TITLES) == ["1", "2", "3", "4", "5", "6", "A1"]
    shown = [
        (name, c.dataset, c.metric, c.setting, c.method, c.value)
        for name, cells in tables.items()
        for c in cells
        if c.source != "ours"
    ]
    rows = published()
    assert sorted(shown) == sorted(
        (r["table"], r["dataset"], r["metric"], r["setting"], r["method"], float(r["value"])) for r in rows
    )


def test_ours_come_from_the_stage_they_name(params):
    tables = paper_tables(params, metrics_of, PHANTOMS, "benchmark")
    one = next(
        c
        for c in ours(tables["1"])
        if (c.dataset, c.setting, c.method) == ("siim", "10%", "full, fine-tuned")
    )
    expected = metrics_of("finetune@full-phantom-siim-10")["auroc"]
    assert (one.value, one.ci_low, one.ci_high, one.n, one.chance) == (
        expected,
        expected - 1,
        expected + 1,
        7,
        20,
    )
    assert one.data == "phantom-siim (phantom)"
    three = {c.dataset: c for c in ours(tables["3"])}
    assert three["chexpert_5x200"].value == metrics_of("zero_shot@full-phantom-chexpert")["accuracy"]
    a1 = [c for c in ours(tables["A1"]) if c.setting == "itc+itm+itg+tig (1.0)"]
    assert {c.metric: c.value for c in a1}["zero_shot_accuracy"] == metrics_of("zero_shot@full-phantom")[
        "accuracy"
    ]
    assert all(
        c.data.endswith("(phantom)") for cells in tables.values() for c in ours(cells) if c.value is not None
    )


def test_means_over_seeds_tell_how_many_and_their_spread(params, tmp_path):
    """In every table that has such figures, and in the files; retrieval has no seeds of its own."""
    several = params.finetune.replace(seeds=(0, 1))

    def read(stage):
        spread = {f"{name}_seed_sd": 2.4 for name in ("accuracy", "probe_auroc", "auroc")}
        return metrics_of(stage) | (spread if "retrieve" not in stage else {})

    tables = paper_tables(params.replace(finetune=several), read, PHANTOMS, "benchmark")
    told = {(c.seeds, c.seed_sd) for n in ("1", "3", "A1") for c in ours(tables[n]) if c.metric != "accuracy"}
    assert told == {(2, 2.4), (3, 2.4), (None, None)}
    assert {(c.seeds, c.seed_sd) for c in ours(tables["3"])} == {(3, 2.4)}
    assert {(c.seeds, c.seed_sd) for c in ours(tables["2"])} == {(None, None)}
    write_tables(tables, tmp_path)
    with (tmp_path / "table_3.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "ours"]
    assert {(row["seeds"], row["seed_sd"]) for row in rows} == {("3", "2.4")}


def test_a_distance_in_the_frozen_vit_never_stands_as_fid(params):
    """Table 5 has both under names of their own; without Inception's weights the cells of FID are empty."""

    def images(**measured):
        tables = paper_tables(params, lambda stage: metrics_of(stage) | measured, PHANTOMS, "benchmark")
        return {(c.metric, c.setting): c.value for c in ours(tables["5"])}

    settings = ("validation", "reconstruction", "synthetic")
    vit = {f"fd_vit_{setting}": float(i) for i, setting in enumerate(settings)}
    expected = {("fd_vit", setting): float(i) for i, setting in enumerate(settings)}
    assert images(**vit) == expected | {("fid", setting): None for setting in settings}
    fid = {f"fid_{setting}": 10.0 + i for i, setting in enumerate(settings)}
    assert images(**vit, **fid) == expected | {("fid", s): 10.0 + i for i, s in enumerate(settings)}


def test_what_the_matching_head_ranks_or_scores_again_has_rows_of_its_own(params):
    def read(stage):
        again = {"itm_accuracy": 31.0, "itm_i2t_map_at_5": 32.0, "itm_t2i_map_release_at_10": 33.0}
        return metrics_of(stage) | again

    tables = paper_tables(params, read, PHANTOMS, "benchmark")
    found = [
        (c.dataset, c.metric, c.method, c.value)
        for n in ("2", "3")
        for c in ours(tables[n])
        if "ITM" in c.method
    ]
    assert found == [
        ("mimic_5x200", "itr_map@5", "full, re-ranked by ITM, AP@K textbook", 32.0),
        ("mimic_5x200", "tir_map@10", "full, re-ranked by ITM, AP@K release", 33.0),
        ("mimic_5x200", "accuracy", "full, re-scored by ITM", 31.0),
        ("chexpert_5x200", "accuracy", "full, re-scored by ITM", 31.0),
        ("rsna", "accuracy", "full, re-scored by ITM", 31.0),
    ]


def test_what_is_missing_is_empty_and_says_why(params):
    evaluate = params.evaluate.replace(zero_shot=("phantom",))
    datasets = {name: d for name, d in params.datasets.items() if name != "phantom-siim"}
    finetune = {name: labels for name, labels in evaluate.finetune.items() if name != "phantom-siim"}
    changed = params.replace(datasets=datasets, evaluate=evaluate.replace(finetune=finetune))

    def read(stage):
        assert stage != "zero_shot@full-phantom-rsna", "not asked about what does not run"
        return metrics_of(stage)

    tables = paper_tables(changed, read, PHANTOMS, "benchmark")
    cells = [c for cells in tables.values() for c in ours(cells)]
    assert all(bool(c.note) for c in cells if c.value is None)
    notes = {c.note for c in cells if c.value is None}
    assert "no data set of layout siim_acr in params.yaml" in notes
    assert "zero_shot@full-phantom-rsna is not enabled in params.yaml" in notes
    assert "score_images@full does not measure fid_synthetic" in notes
    missing = [c.setting for c in ours(tables["6"]) if c.value is None]
    assert set(missing) == {"itc", "itc+itm", "itc+itm+itg", "itc+itm+tig"}


def test_the_ablation_preset_fills_tables_6_and_a1():
    ablation = load_params(REPO / "workflow/presets/ablation.yaml")
    tables = paper_tables(ablation, metrics_of, PHANTOMS, "benchmark")
    for name in ("6", "A1"):
        assert all(c.value is not None for c in ours(tables[name]) if c.setting in settings(tables[name])), (
            name
        )


def test_table_6_gives_both_definitions_as_table_2_does(params):
    tables = paper_tables(
        params, lambda stage: metrics_of(stage) | {"i2t_map_release_at_5": 88.8}, PHANTOMS, "benchmark"
    )
    found = {c.method: c.value for c in ours(tables["6"]) if c.metric == "itr_map@5" and c.value is not None}
    assert (
        found == {c.method: c.value for c in ours(tables["2"]) if c.metric == "itr_map@5"}
        and found["full, AP@K release"] == 88.8
    )
    (six,) = [section for section in paper_section(tables) if section["name"] == "6"]
    labels = [line["label"] for _, lines in six["groups"] for line in lines]
    assert {f"itc+itm+itg+tig: full, AP@K {d}" for d in ("textbook", "release")} <= set(labels)


def test_the_preset_paper_measures_what_the_papers_columns_measure():
    """No cell of a benchmark or of a reconstruction has a note; COVIDx's name their lists."""
    paper = load_params(REPO / "workflow/presets/paper.yaml")
    image_metrics = {f"{kind}_reconstruction": 1.0 for kind in ("fid", "fd_vit")}
    tables = paper_tables(paper, lambda stage: metrics_of(stage) | image_metrics, set(), "benchmark")
    for name in ("2", "3", "5"):
        measured = [c for c in ours(tables[name]) if c.value is not None]
        assert measured and {c.note for c in measured} == {""}, name


def test_variants_of_equal_weights_have_a_row_each(params):
    variants = {**params.variants, "twin": params.variants["full"]}
    trained = params.trained.replace(itc=("full", "twin"))
    evaluate = params.evaluate.replace(finetune_models=("full", "twin"))
    changed = params.replace(variants=variants, trained=trained, evaluate=evaluate)
    tables = paper_tables(changed, metrics_of, PHANTOMS, "benchmark")
    a1 = {
        c.method: c.value for c in ours(tables["A1"]) if c.metric == "finetune_auroc" and c.dataset == "rsna"
    }
    assert {a1[name] for name in ("full", "twin")} == {
        metrics_of(f"finetune@{name}-phantom-rsna-100")["auroc"] for name in ("full", "twin")
    }
    for name, rows in (("6", 4), ("A1", 2)):
        (section,) = [section for section in paper_section(tables) if section["name"] == name]
        labels = [line["label"] for _, lines in section["groups"] for line in lines]
        assert len({label for label in labels if ": full" in label or ": twin" in label}) == rows


def test_no_model_to_fine_tune_leaves_table_1_empty(params):
    evaluate = params.evaluate.replace(finetune_models=())

    def read(stage):
        assert not stage.startswith("finetune@")
        return metrics_of(stage)

    tables = paper_tables(params.replace(evaluate=evaluate), read, PHANTOMS, "benchmark")
    assert {c.note for c in ours(tables["1"]) if c.dataset == "siim" and c.setting == "1%"} == {
        "finetune@full-phantom-siim-1 is not enabled in params.yaml"
    }


def settings(cells):
    return {c.setting for c in cells if c.source != "ours"}


@pytest.mark.parametrize(
    ("weights", "six", "a1"),
    [
        ((1, 1, 0, 1), "itc+itm+tig", "itc+itm+tig"),
        ((1, 1, 1, 1), "itc+itm+itg+tig", "itc+itm+itg+tig (1.0)"),
        ((1, 1, 1, 0.8), "itc=1 itm=1 itg=1 tig=0.8", "itc+itm+itg+tig (0.8)"),
        ((0.5, 0, 0, 1), "itc=0.5 itm=0 itg=0 tig=1", "itc=0.5 itm=0 itg=0 tig=1"),
    ],
)
def test_variants_are_known_by_their_weights(weights, six, a1):
    variant = Variant(**dict(zip(("itc", "itm", "itg", "tig"), map(float, weights), strict=True)))
    assert (objectives_of(variant, False), objectives_of(variant, True)) == (six, a1)


def test_files_and_page_hold_the_same_cells(params, tmp_path):
    tables = paper_tables(params, metrics_of, PHANTOMS, "benchmark")
    write_tables(tables, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {f"table_{name}.csv" for name in TITLES}
    with (tmp_path / "table_3.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(tables["3"])
    assert rows[0]["method"] == "ConVIRT" and rows[0]["value"] == "43.8" and rows[0]["ci_low"] == ""
    for section in paper_section(tables):
        for _, lines in section["groups"]:
            assert all(len(line["cells"]) == len(section["columns"]) for line in lines)
        values = [c["value"] for _, lines in section["groups"] for line in lines for c in line["cells"] if c]
        assert all(re.fullmatch(r"(\d+\.\d)?", value) for value in values)
