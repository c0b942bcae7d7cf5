"""benchmarks.real_data: the references beside results on real radiographs, and the tables of docs/results/."""

import json

import numpy as np
import polars as pl
import pytest

from benchmarks.real_baselines import nearest_training, opening_facts
from benchmarks.real_data import read_right, text_is_ours
from benchmarks.real_generated import facts_of
from benchmarks.real_tables import LEARNED, tables_of, value_table, view_table
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.runtime.params import load_params
from tests.support.paths import REPO

RECORDED = {  # page -> record whose tables it shows
    "nih-small.md": "nih-small",
    "kermany.md": "kermany",
    "covid.md": "covid-chestxray",
}


@pytest.mark.parametrize("page", RECORDED)
def test_the_tables_of_a_page_are_those_of_its_record(page):
    text = (REPO / "docs/results" / page).read_text(encoding="utf-8")
    record = max((REPO / "benchmarks/results").glob(f"{RECORDED[page]}-2*.json"))
    assert record.name in text
    for table in tables_of(json.loads(record.read_text(encoding="utf-8"))).split("\n\n"):
        assert table in text


@pytest.mark.parametrize(
    ("report", "view", "sex", "age"),
    [
        (
            "PA chest radiograph of a female patient aged 50 to 59. There is a nodule.",
            "pa",
            "female",
            "50 to 59",
        ),
        ("AP chest radiograph of a male patient. No abnormality is seen.", "ap", "male", None),
        ("Chest radiograph of a patient aged 0 to 9.", None, None, "0 to 9"),
        ("Chest radiograph. No abnormality is seen.", None, None, None),
        ("There is pneumonia.", None, None, None),
    ],
)
def test_facts_of_an_opening_sentence(report, view, sex, age):
    assert opening_facts(report) == {"view": view, "sex": sex, "age": age}


def test_facts_are_counted_where_the_reference_has_them():
    references = [
        "PA chest radiograph of a female patient.",
        "AP chest radiograph.",
        "No abnormality is seen.",
    ]
    texts = ["PA chest radiograph of a male patient.", "PA chest radiograph.", "AP chest radiograph."]
    found = read_right("", references, texts, BootstrapOptions(20, 0))
    assert {name: (value[0], value[3]) for name, value in found.items()} == {
        "reports view read right": (50.0, 2),
        "reports sex read right": (0.0, 1),
    }


def test_the_nearest_image_does_not_depend_on_the_scale_of_a_channel():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(30, 8)).astype(np.float32)
    others = train[[4, 7, 21]] + rng.normal(scale=0.05, size=(3, 8)).astype(np.float32)
    scale = np.geomspace(1, 1e4, 8).astype(np.float32)
    for factor in (1, scale):
        assert nearest_training(train * factor + 3, others * factor + 3).tolist() == [4, 7, 21]


def test_binary_facts_of_images():
    views = ["PA", "AP"] * 20
    table = pl.DataFrame(
        {
            "report": [f"{view} chest radiograph of a male patient." for view in views],
            "label_pneumonia": [1, 0] * 20,
            "label_hernia": [1] + [0] * 39,
        }
    )
    found = facts_of(table)
    assert set(found) == {"view AP", "pneumonia"}, "all are male, and one hernia is too few"
    assert found["view AP"].tolist() == [0, 1] * 20


def run(seed: int, value: float) -> dict:
    values = {
        "retrieve i2t_map_at_1": [value, value - 5, value + 5, 221],
        "retrieve i2t_map_at_1_chance": [29.5, None, None, None],
        "retrieve encoder_i2t_map_at_1": [40.0, 35.0, 45.0, 221],
        "reports findings_f1_micro in PA": [50.0, 40.0, 60.0, 100],
    }
    lines = [
        {"evaluation": "retrieve nih", "metric": "i2t_map_at_1", "view": v, "value": 41.0, "ci_low": 30.0, "ci_high": 50.0, "n": n}
        for v, n in (("AP", 99), ("PA", 122))
    ]  # fmt: skip
    return {"seed": seed, "values": values, "views": lines, "samples": []}


def test_a_table_of_three_seeds():
    table = value_table([run(0, 48.9), run(1, 50.0), run(2, 52.0)], LEARNED)
    assert table.splitlines()[2:] == [
        "| report for an image, mAP@1, % (n = 221) | 48.9 [43.9, 53.9] | 50.3 (1.6) | 29.5 chance level; "
        "40.0 [35.0, 45.0] encoder's nearest neighbour |"
    ]


def test_a_table_of_views():
    assert view_table(run(0, 48.9)).splitlines() == [
        "| metric | PA alone | AP alone |",
        "|---|---|---|",
        "| report for an image, mAP@1, % | 41.0 [30.0, 50.0] (n = 122) | 41.0 [30.0, 50.0] (n = 99) |",
        "| findings mentioned, micro F1, %: generated reports | 50.0 [40.0, 60.0] (n = 100) |  |",
    ]


@pytest.mark.parametrize(
    ("preset", "ours"), [("nih-small", True), ("kermany", True), ("covid-chestxray", False)]
)
def test_texts_and_images_are_saved_only_where_the_texts_are_ours(preset, ours):
    assert text_is_ours(load_params(REPO / f"workflow/presets/{preset}.yaml")) is ours
    records = sorted((REPO / "benchmarks/results").glob(f"{preset}-2*.json"))
    assert bool(json.loads(records[-1].read_text(encoding="utf-8"))["runs"][0]["samples"]) is ours
