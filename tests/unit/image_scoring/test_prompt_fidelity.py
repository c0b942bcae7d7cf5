"""Prompt fidelity: images that show the prompted finding score high, others at chance level."""

import numpy as np
import polars as pl
import pytest

from medunifier.image_scoring import prompt_fidelity as fidelity
from medunifier.image_scoring.classifier_quality import classifier_quality, train_finding_classifier
from medunifier.image_scoring.finding_classifier import FindingClassifier
from medunifier.image_scoring.labels import finding_labels, labelled_findings, on_side, single_finding
from medunifier.metrics.bootstrap import BootstrapOptions

OPTIONS = BootstrapOptions(300, 0)
FINDINGS = ("edema", "pneumonia", "pneumothorax")
ROWS = {name: i for i, name in enumerate(FINDINGS)}


def image(rng, finding=None, side=None):
    """Return a thumbnail of 4 x 8: a bright half row, whose row is the finding and whose half the side."""
    pixels = 0.5 + 0.02 * rng.normal(size=(4, 8))
    if finding is not None:
        for half in {"left": [0], "right": [1], "both": [0, 1], None: [0, 1]}[side]:
            pixels[ROWS[finding], 4 * half : 4 * half + 4] += 0.3
    return pixels.ravel()


def real(n, seed):
    """Return prepared rows with labels and reports, and thumbnails that show them."""
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
def classifier():
    return train_finding_classifier(*real(400, 0))


PROMPTS = ["There is edema.", "There is left pneumonia.", "There is right pneumonia.", "Left pneumothorax.",
           "Right pneumothorax.", "Edema is present."] * 10  # fmt: skip
SOPTIONSN = [("edema", None), ("pneumonia", "left"), ("pneumonia", "right"), ("pneumothorax", "left"),
         ("pneumothorax", "right"), ("edema", None)] * 10  # fmt: skip


def test_findings_come_from_labels_and_sides_from_reports():
    table = pl.DataFrame(
        {
            "report": ["Left pneumonia.", "Pneumonia.", "Bilateral pneumonia.", "No pneumonia.", "Right pneumonia?", None],
            "label_pneumonia": [1, 1, 1, 0, -1, None],
            "label_no_finding": [0, 0, 0, 1, 0, 1],
        },
        schema_overrides={"label_pneumonia": pl.Int8},
    )  # fmt: skip
    assert labelled_findings(table) == ("pneumonia",)
    names, labels = finding_labels(table)
    assert names == ["pneumonia", "pneumonia_left", "pneumonia_right"]
    assert labels.T.tolist() == [[1, 1, 1, 0, -1, 0], [1, -1, 1, 0, -1, 0], [0, -1, 1, 0, -1, 0]]
    names, labels = finding_labels(table.select("report"))  # without labels: mentioned in the report
    assert labels[:, names.index("pneumonia")].tolist() == [1, 1, 1, 0, 1, 0]
    assert "cardiomegaly_left" in names


def test_single_finding():
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, -1]])
    assert single_finding(labels, ["a", "b"], ["b", "a"]).tolist() == [1, 0, -1, -1, -1]


def test_findings_and_sides_of_prompts(classifier):
    prompted = fidelity.read_prompted_findings(
        [*PROMPTS[:5], "Clear lungs.", "Edema and left pneumonia."], classifier
    )
    assert prompted.findings == FINDINGS and prompted.rows.tolist() == [0, 1, 2, 3, 4]
    assert prompted.finding.tolist() == [0, 1, 1, 2, 2] and prompted.sides.tolist() == [-1, 0, 1, 0, 1]


def test_images_that_show_the_prompted_finding(classifier):
    rng = np.random.default_rng(1)
    prompted = fidelity.read_prompted_findings(PROMPTS, classifier)
    generated = np.array([image(rng, *shown) for shown in SOPTIONSN])
    unconditional = np.array([image(rng, *SOPTIONSN[rng.integers(6)]) for _ in range(40)])
    found = fidelity.prompt_fidelity(classifier, prompted, generated, unconditional, OPTIONS)
    for name, chance in (("", 1 / 3), ("_side", 1 / 2), ("_both", 2 / 36 * 4 + (2 / 6) ** 2 - 4 / 36)):
        assert found[f"prompt_fidelity{name}"] == pytest.approx(100, abs=3)
        assert found[f"prompt_fidelity{name}_chance"] == pytest.approx(100 * chance, abs=3)
        assert found[f"prompt_fidelity{name}_unconditional_ci_high"] < found[f"prompt_fidelity{name}_ci_low"]
        gain = found[f"prompt_fidelity{name}"] - found[f"prompt_fidelity{name}_unconditional"]
        assert found[f"prompt_fidelity{name}_gain"] == pytest.approx(gain)
    assert found["prompt_fidelity_n"] == 60 and found["prompt_fidelity_side_n"] == 40
    assert found["prompt_fidelity_edema_n"] == 20 and found["prompt_fidelity_findings"] == 3


def test_images_independent_of_the_prompt_score_at_chance_level(classifier):
    rng = np.random.default_rng(2)
    prompted = fidelity.read_prompted_findings(PROMPTS * 5, classifier)
    generated = np.array([image(rng, *SOPTIONSN[rng.integers(6)]) for _ in PROMPTS * 5])
    found = fidelity.prompt_fidelity(classifier, prompted, generated, generated[::-1], OPTIONS)
    for name in ("prompt_fidelity", "prompt_fidelity_side", "prompt_fidelity_both"):
        assert found[f"{name}_ci_low"] < found[f"{name}_chance"] < found[f"{name}_ci_high"]
        assert found[f"{name}_gain_ci_low"] < 0 < found[f"{name}_gain_ci_high"]


def test_swapped_sides_are_detected(classifier):
    rng = np.random.default_rng(3)
    swap = {"left": "right", "right": "left", None: None}
    generated = np.array([image(rng, finding, swap[side]) for finding, side in SOPTIONSN])
    found = fidelity.prompt_fidelity(
        classifier, fidelity.read_prompted_findings(PROMPTS, classifier), generated, generated, OPTIONS
    )
    assert found["prompt_fidelity"] > 95 and found["prompt_fidelity_side"] < 5


def test_the_classifier_is_measured_on_real_images(classifier):
    test, thumbnails = real(200, 5)
    options = OPTIONS.with_clusters([f"p{i // 2}" for i in range(200)])
    prompted = fidelity.read_prompted_findings(PROMPTS, classifier).findings
    found = classifier_quality(classifier, test, thumbnails, prompted, options)
    assert min(found[name] for name in ("judge_auroc", "judge_accuracy", "judge_side_accuracy")) > 95
    assert found["judge_auroc_n"] == 200 and found["judge_accuracy_n"] == 150
    noise = np.random.default_rng(0).random(thumbnails.shape)
    chance = classifier_quality(classifier, test, noise, (), options)
    assert chance["judge_auroc_ci_low"] < 50 < chance["judge_auroc_ci_high"]
    assert "judge_accuracy" not in chance


def test_report_fidelity(classifier):
    sources, thumbnails = real(100, 7)
    assert fidelity.report_fidelity(classifier, sources, thumbnails, OPTIONS)["report_fidelity_auroc"] > 95
    shuffled = fidelity.report_fidelity(classifier, sources, np.roll(thumbnails, 1, 0), OPTIONS)
    assert shuffled["report_fidelity_auroc"] < 60


def test_a_classifier_without_findings_gives_no_metrics():
    nothing = FindingClassifier((), np.zeros((32, 0)), np.zeros(0))
    test, thumbnails = real(20, 0)
    prompted = fidelity.read_prompted_findings(PROMPTS, nothing)
    assert len(prompted.rows) == 0 and prompted.findings == ()
    assert classifier_quality(nothing, test, thumbnails, (), OPTIONS) == {}
    assert fidelity.report_fidelity(nothing, test, thumbnails, OPTIONS) == {}
    assert on_side("edema", "left") == "edema_left"
