"""Fidelity: images that show what was asked for score high, others at chance; the judge is told beside."""

import numpy as np
import polars as pl
import pytest

from medunifier.image_scoring import prompt_fidelity as fidelity
from medunifier.image_scoring.finding_classifier import Judge
from medunifier.image_scoring.labels import findings_of, on_side, single, truth_of
from medunifier.metrics.bootstrap import BootstrapOptions

OPTIONS = BootstrapOptions(300, 0)
FINDINGS = ("edema", "pneumonia", "pneumothorax")
SPOTS = {name: i for i, name in enumerate(f for f in FINDINGS)}


def image(rng, finding=None, side=None):
    """A thumbnail of 4 x 8: column blocks tell the side, rows the finding."""
    pixels = 0.5 + 0.02 * rng.normal(size=(4, 8))
    if finding is not None:
        for half in {"left": [0], "right": [1], "both": [0, 1], None: [0, 1]}[side]:
            pixels[SPOTS[finding], 4 * half : 4 * half + 4] += 0.3
    return pixels.ravel()


def real(n, seed):
    """Prepared rows with labels and reports, and thumbnails that show them."""
    rng = np.random.default_rng(seed)
    rows, images = [], []
    for i in range(n):
        finding = (*FINDINGS, None)[i % 4]
        side = None if finding in (None, "edema") else ("left", "right", "both")[rng.integers(3)]
        words = {"both": "bilateral", None: ""}.get(side, side)
        report = f"There is {words} {finding}." if finding else "The lungs are clear."
        labels = {f"label_{f}": 1 if f == finding else None for f in FINDINGS}
        rows.append(
            {"image_id": f"i{i}", "report": report, "label_no_finding": int(finding is None)} | labels
        )
        images.append(image(rng, finding, side))
    return pl.DataFrame(rows), np.array(images)


@pytest.fixture(scope="module")
def judge():
    return fidelity.judge_of(*real(400, 0))


PROMPTS = ["There is edema.", "There is left pneumonia.", "There is right pneumonia.", "Left pneumothorax.",
           "Right pneumothorax.", "Edema is present."] * 10  # fmt: skip
SOPTIONSN = [("edema", None), ("pneumonia", "left"), ("pneumonia", "right"), ("pneumothorax", "left"),
         ("pneumothorax", "right"), ("edema", None)] * 10  # fmt: skip


def test_truth_comes_from_labels_and_sides_from_reports():
    table = pl.DataFrame(
        {
            "report": ["Left pneumonia.", "Pneumonia.", "Bilateral pneumonia.", "No pneumonia.", "Right pneumonia?", None],
            "label_pneumonia": [1, 1, 1, 0, -1, None],
            "label_no_finding": [0, 0, 0, 1, 0, 1],
        },
        schema_overrides={"label_pneumonia": pl.Int8},
    )  # fmt: skip
    assert findings_of(table) == ("pneumonia",)
    names, truth = truth_of(table)
    assert names == ["pneumonia", "pneumonia_left", "pneumonia_right"]
    assert truth.T.tolist() == [[1, 1, 1, 0, -1, 0], [1, -1, 1, 0, -1, 0], [0, -1, 1, 0, -1, 0]]
    names, truth = truth_of(table.select("report"))  # without labels the report tells
    assert truth[:, names.index("pneumonia")].tolist() == [1, 1, 1, 0, 1, 0]
    assert "cardiomegaly_left" in names


def test_single_finding():
    truth = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, -1]])
    assert single(truth, ["a", "b"], ["b", "a"]).tolist() == [1, 0, -1, -1, -1]


def test_what_prompts_ask_for(judge):
    asked = fidelity.read_prompts_asked([*PROMPTS[:5], "Clear lungs.", "Edema and left pneumonia."], judge)
    assert asked.findings == FINDINGS and asked.rows.tolist() == [0, 1, 2, 3, 4]
    assert asked.finding.tolist() == [0, 1, 1, 2, 2] and asked.sides.tolist() == [-1, 0, 1, 0, 1]


def test_images_that_show_what_was_asked_for(judge):
    rng = np.random.default_rng(1)
    asked = fidelity.read_prompts_asked(PROMPTS, judge)
    drawn = np.array([image(rng, *shown) for shown in SOPTIONSN])
    without = np.array([image(rng, *SOPTIONSN[rng.integers(6)]) for _ in range(40)])
    found = fidelity.prompt_fidelity(judge, asked, drawn, without, OPTIONS)
    for name, chance in (("", 1 / 3), ("_side", 1 / 2), ("_both", 2 / 36 * 4 + (2 / 6) ** 2 - 4 / 36)):
        assert found[f"prompt_fidelity{name}"] == pytest.approx(100, abs=3)
        assert found[f"prompt_fidelity{name}_chance"] == pytest.approx(100 * chance, abs=3)
        assert found[f"prompt_fidelity{name}_unconditional_ci_high"] < found[f"prompt_fidelity{name}_ci_low"]
        gain = found[f"prompt_fidelity{name}"] - found[f"prompt_fidelity{name}_unconditional"]
        assert found[f"prompt_fidelity{name}_gain"] == pytest.approx(gain)
    assert found["prompt_fidelity_n"] == 60 and found["prompt_fidelity_side_n"] == 40
    assert found["prompt_fidelity_edema_n"] == 20 and found["prompt_fidelity_findings"] == 3


def test_images_that_know_nothing_of_the_prompt_score_chance(judge):
    rng = np.random.default_rng(2)
    asked = fidelity.read_prompts_asked(PROMPTS * 5, judge)
    drawn = np.array([image(rng, *SOPTIONSN[rng.integers(6)]) for _ in PROMPTS * 5])
    found = fidelity.prompt_fidelity(judge, asked, drawn, drawn[::-1], OPTIONS)
    for name in ("prompt_fidelity", "prompt_fidelity_side", "prompt_fidelity_both"):
        assert found[f"{name}_ci_low"] < found[f"{name}_chance"] < found[f"{name}_ci_high"]
        assert found[f"{name}_gain_ci_low"] < 0 < found[f"{name}_gain_ci_high"]


def test_swapped_sides_are_found_out(judge):
    rng = np.random.default_rng(3)
    swap = {"left": "right", "right": "left", None: None}
    drawn = np.array([image(rng, finding, swap[side]) for finding, side in SOPTIONSN])
    found = fidelity.prompt_fidelity(
        judge, fidelity.read_prompts_asked(PROMPTS, judge), drawn, drawn, OPTIONS
    )
    assert found["prompt_fidelity"] > 95 and found["prompt_fidelity_side"] < 5


def test_the_judge_is_judged_on_real_images(judge):
    test, thumbnails = real(200, 5)
    options = OPTIONS.with_clusters([f"p{i // 2}" for i in range(200)])
    found = fidelity.judge_itself(
        judge, test, thumbnails, fidelity.read_prompts_asked(PROMPTS, judge), options
    )
    assert min(found[name] for name in ("judge_auroc", "judge_accuracy", "judge_side_accuracy")) > 95
    assert found["judge_auroc_n"] == 200 and found["judge_accuracy_n"] == 150
    noise = np.random.default_rng(0).random(thumbnails.shape)
    blind = fidelity.judge_itself(judge, test, noise, None, options)
    assert blind["judge_auroc_ci_low"] < 50 < blind["judge_auroc_ci_high"]
    assert "judge_accuracy" not in blind


def test_report_fidelity(judge):
    sources, thumbnails = real(100, 7)
    assert fidelity.report_fidelity(judge, sources, thumbnails, OPTIONS)["report_fidelity_auroc"] > 95
    shuffled = fidelity.report_fidelity(judge, sources, np.roll(thumbnails, 1, 0), OPTIONS)
    assert shuffled["report_fidelity_auroc"] < 60


def test_a_judge_that_learnt_nothing_says_nothing():
    nothing = Judge((), np.zeros((32, 0)), np.zeros(0))
    test, thumbnails = real(20, 0)
    asked = fidelity.read_prompts_asked(PROMPTS, nothing)
    assert len(asked.rows) == 0 and asked.findings == ()
    assert fidelity.judge_itself(nothing, test, thumbnails, None, OPTIONS) == {}
    assert fidelity.report_fidelity(nothing, test, thumbnails, OPTIONS) == {}
    assert on_side("edema", "left") == "edema_left"
