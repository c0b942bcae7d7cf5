"""Trainings that differ in nothing but the seed: which they are, their mean, and their rows in the paper's tables."""

import csv
import statistics

import pytest

from medunifier.report.paper_section import paper_section
from medunifier.report.paper_tables import paper_tables, write_tables
from medunifier.report.seed_means import mean_metrics, seed_groups
from medunifier.runtime.params import Variant
from tests.support.paper_cells import PHANTOMS, metrics_of, ours

MEAN = "full (mean of 3 seeds)"
FULL = ("full", "full_1", "full_2")


def variants(**seeds):
    return {name: Variant(itc=1.0, itm=1.0, itg=1.0, tig=1.0, seed=seed) for name, seed in seeds.items()}


@pytest.fixture
def seeded(params):
    """Three trainings of one set of weights and one of another, judged by everything but report writing."""
    others = {"weak": Variant(itc=1.0, itm=1.0, itg=1.0, tig=0.8, seed=5)}
    trained = params.trained.replace(itc=(*FULL, "weak"), tig=FULL)
    evaluate = params.evaluate.replace(finetune_models=FULL)
    return params.replace(
        variants=variants(full=None, full_1=1, full_2=2) | others,
        trained=trained,
        evaluate=evaluate,
    )


def measured(stage):
    """As `metrics_of`, with a spread between the seeds of the evaluation, and images."""
    found = metrics_of(stage)
    found |= {"accuracy_seed_sd": 2.4, "itm_accuracy": 3.0 if "full_1" in stage else 6.0}
    number = FULL.index(stage.split("@")[1].split("-")[0]) if "score_images" in stage else 0
    return found | {"fd_vit_validation": 0.5, "fd_vit_synthetic": 2.0 * number}


@pytest.fixture
def tables(seeded):
    return paper_tables(seeded, measured, PHANTOMS, "benchmark")


def test_groups_have_equal_weights_and_each_seed_once(params):
    def groups(seed=0, **seeds):
        return seed_groups(params.replace(seed=seed, variants=variants(**seeds)))

    assert groups(full=None, twin=None, again=0) == {}
    assert groups(full=None, twin=None, again=4) == {"full (mean of 2 seeds)": ("full", "again")}
    assert groups(seed=4, full=None, again=4) == {}
    weak = {
        "weak": Variant(itc=1.0, itm=1.0, itg=1.0, tig=0.8, seed=1),
        "weaker": Variant(itc=1.0, itm=1.0, itg=1.0, tig=0.7, seed=2),
    }
    assert seed_groups(params.replace(variants=variants(full=None) | weak)) == {}
    weak["weak_2"] = weak["weak"].replace(seed=2)
    both = seed_groups(params.replace(variants=variants(full=None, full_1=1, full_2=2) | weak))
    assert both == {MEAN: FULL, "weak (mean of 2 seeds)": ("weak", "weak_2")}


def test_the_mean_of_what_all_measured_without_an_interval():
    one = {"auroc": 80.0, "auroc_ci_low": 75.0, "auroc_n": 9, "auroc_seed_sd": 7.0, "only_here": 1.0}
    other = {"auroc": 86.0, "auroc_ci_low": 80.0, "auroc_n": 9}
    found = mean_metrics([one, other])
    assert {name: value for name, value in found.items() if not name.startswith("auroc_n_")} == {
        "auroc": 83.0,
        "auroc_seed_sd": pytest.approx(statistics.stdev([80.0, 86.0])),
        "auroc_seeds": 2,
        "auroc_n": 9,
    }


def test_every_table_has_the_mean_beside_the_rows_of_its_trainings(tables):
    for table, stage, metric, dataset, method in (
        ("1", "finetune@{}-phantom-siim-10", "auroc", "siim", f"{MEAN}, fine-tuned"),
        ("2", "retrieve@{}-phantom", "itr_map@5", "mimic_5x200", f"{MEAN}, AP@K textbook"),
        ("3", "zero_shot@{}-phantom-chexpert", "accuracy", "chexpert_5x200", MEAN),
        ("6", "retrieve@{}-phantom", "itr_map@5", "mimic_5x200", f"{MEAN}, AP@K textbook"),
        ("A1", "finetune@{}-phantom-rsna-100", "finetune_auroc", "rsna", MEAN),
    ):
        rows = {
            cell.method: cell
            for cell in ours(tables[table])
            if (cell.dataset, cell.metric) == (dataset, metric)
            and cell.setting in ("", "10%", "itc+itm+itg+tig", "itc+itm+itg+tig (1.0)")
        }
        mean = rows[method]
        values = [metrics_of(stage.format(name))["auroc"] for name in FULL]
        assert len(set(values)) == 3 and set(values) <= {cell.value for cell in rows.values()}
        assert mean.value == pytest.approx(statistics.fmean(values))
        assert (mean.seeds, mean.seed_sd) == (3, pytest.approx(statistics.stdev(values)))
        assert (mean.ci_low, mean.ci_high, mean.n, mean.chance) == (None, None, 7, 20)
        assert mean.data.endswith("(phantom)")
    again = {c.method: c.value for c in ours(tables["3"]) if c.dataset == "rsna" and "ITM" in c.method}
    assert again[f"{MEAN}, re-scored by ITM"] == pytest.approx(5.0)
    assert not any("weak (mean" in cell.method for cells in tables.values() for cell in cells)


def test_what_is_no_models_has_one_row_and_what_was_not_measured_no_mean(seeded):
    written = seeded.replace(trained=seeded.trained.replace(itg=FULL))
    for chosen in (seeded, written):
        tables = paper_tables(chosen, measured, PHANTOMS, "benchmark")
        constant = [c for c in ours(tables["4"]) if "constant" in c.method and c.metric == "bleu_4"]
        assert len(constant) == 2  # protocols
        assert any(MEAN in c.method for c in tables["4"]) == (chosen is written)
        images = {(c.method, c.metric, c.setting): c for c in ours(tables["5"])}
        assert len(images) == len(ours(tables["5"]))
        assert [m for m, metric, setting in images if setting == "validation"] == ["Validation set"] * 2
        synthetic = images[MEAN, "fd_vit", "synthetic"]
        assert (synthetic.value, synthetic.seed_sd) == (2.0, 2.0)
        assert (MEAN, "fid", "synthetic") not in images
        assert (
            images["full_1", "fid", "synthetic"].note == "score_images@full_1 does not measure fid_synthetic"
        )


def test_no_mean_where_not_all_trainings_were_judged(seeded):
    trained = seeded.trained.replace(itc=FULL[:2])
    tables = paper_tables(seeded.replace(trained=trained), measured, PHANTOMS, "benchmark")
    assert not any(MEAN in cell.method for name in ("2", "3", "6") for cell in tables[name])
    shown = {cell.metric for cell in tables["A1"] if MEAN in cell.method}
    assert shown == {"finetune_auroc", "finetune_accuracy"}


def test_single_rows_stay_as_they_are(seeded, tables):
    alone = seeded.replace(variants={n: v for n, v in seeded.variants.items() if n == "full"})
    one = alone.replace(
        trained=seeded.trained.replace(itc=("full",), tig=("full",)),
        evaluate=seeded.evaluate.replace(finetune_models=("full",)),
    )
    for name, cells in paper_tables(one, measured, PHANTOMS, "benchmark").items():
        assert [cell for cell in ours(cells) if cell.value is not None and cell not in tables[name]] == []


def test_files_and_page_tell_number_and_spread(tables, tmp_path):
    write_tables(tables, tmp_path)
    with (tmp_path / "table_3.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == MEAN]
    assert rows and all(row["seeds"] == "3" and row["seed_sd"] and not row["ci_low"] for row in rows)
    for section in paper_section(tables):
        lines = [line for _, lines in section["groups"] for line in lines if MEAN in line["label"]]
        cells = [cell for line in lines for cell in line["cells"] if cell]
        assert bool(cells) == (section["name"] != "4")
        assert all("3 seeds, sd " in cell["range"] for cell in cells)
