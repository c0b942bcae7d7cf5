"""The phantom's images show what the findings say, where they say it."""

from dataclasses import replace

import numpy as np
import pytest

from medunifier.phantom.anatomy import APEX, draw_anatomy
from medunifier.phantom.findings import BENCHMARK, FINDINGS, Finding, draw_findings
from medunifier.phantom.frontal import render_frontal
from medunifier.phantom.lateral import render_lateral

SIZE = 160
ANATOMY = replace(draw_anatomy(np.random.default_rng(4)), scoliosis=0.0, breasts=0.0)


def frontal(*findings: Finding, key: int = 0, anatomy=ANATOMY, device: str = "none") -> np.ndarray:
    return render_frontal(anatomy, findings, device, False, [9, key], SIZE).astype(float)


def change(*findings: Finding, key: int = 0) -> np.ndarray:
    """Return what the findings add to the image of the same patient without them."""
    return frontal(*findings, key=key) - frontal(key=key)


def share_on_right(difference: np.ndarray) -> float:
    """Part of the change on the patient's right, which is the left half of the image."""
    weight = np.abs(difference)
    return weight[:, : SIZE // 2].sum() / weight.sum()


@pytest.mark.parametrize("severity", [1, 2, 3])
@pytest.mark.parametrize(
    "name", ["atelectasis", "pneumonia", "consolidation", "pleural_effusion", "pneumothorax"]
)
def test_a_finding_shows_on_the_side_it_names(name, severity):
    for key in range(3):
        right, left = (change(Finding(name, side, "lower", severity), key=key) for side in ("right", "left"))
        assert share_on_right(right) > 0.93
        assert share_on_right(left) < 0.07


@pytest.mark.parametrize("name", ["atelectasis", "pneumonia", "pleural_effusion", "edema"])
def test_a_finding_of_both_sides_shows_on_both(name):
    assert 0.3 < share_on_right(change(Finding(name, "both", "lower", 2))) < 0.7


@pytest.mark.parametrize("name", ["atelectasis", "pneumonia", "consolidation"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_finding_shows_in_the_zone_it_names(name, side):
    thirds = APEX + (ANATOMY.dome - APEX) * np.array([1 / 3, 2 / 3])
    rows = (np.arange(SIZE) + 0.5) / SIZE
    for zone, (low, high) in {
        "upper": (0, thirds[0] + 0.02),
        "mid": (thirds[0] - 0.02, thirds[1] + 0.02),
        "lower": (thirds[1] - 0.02, 1),
    }.items():
        weight = np.abs(change(Finding(name, side, zone, 1))).sum(axis=1)
        assert low < (weight * rows).sum() / weight.sum() < high, zone


@pytest.mark.parametrize("name", FINDINGS)
def test_a_worse_finding_changes_more_of_the_image(name):
    side = {"cardiomegaly": "none", "edema": "both"}.get(name, "right")
    changes = [change(Finding(name, side, "mid", severity)) for severity in (1, 2, 3)]
    # A collapsed lung also gets denser: of a pneumothorax only the free air counts.
    amounts = [(np.abs(c) if name != "pneumothorax" else -np.minimum(c, 0)).sum() for c in changes]
    assert amounts[0] > 0
    assert amounts[0] * 1.15 < amounts[1] and amounts[1] * 1.15 < amounts[2]


def test_air_darkens_and_everything_else_brightens():
    assert change(Finding("pneumothorax", "left", "upper", 3)).min() < -25
    for name in ("atelectasis", "pneumonia", "consolidation", "edema", "pleural_effusion"):
        difference = change(Finding(name, "both", "lower", 2))
        assert difference.max() > 40 and -difference.min() < 0.5 * difference.max(), name


def test_cardiomegaly_widens_the_heart():
    def width(image: np.ndarray) -> int:
        """Bright pixels in the row of the heart's greatest width."""
        row = round((ANATOMY.dome - 0.03) * SIZE)
        band = image[row - 2 : row + 3, SIZE // 8 : -SIZE // 8].mean(axis=0)
        return int((band > 120).sum())

    widths = [width(frontal())] + [
        width(frontal(Finding("cardiomegaly", "none", "none", s))) for s in (1, 2, 3)
    ]
    assert widths == sorted(widths) and widths[3] > 1.3 * widths[0]


def test_a_normal_image_has_the_greys_of_a_radiograph():
    image = frontal()
    middle, lung = image[:, 76:84].mean(), image[60:90, 30:55].mean()
    abdomen, corner = image[-12:, 50:110].mean(), image[:6, :6].mean()
    assert corner < lung < abdomen < middle
    assert lung < 90 and middle > 170


@pytest.mark.parametrize("device", ["central line", "pacemaker"])
def test_a_device_is_rendered(device):
    assert (frontal(device=device) - frontal()).max() > 30


def test_the_same_key_gives_the_same_image_and_another_key_another():
    finding = Finding("pneumonia", "left", "mid", 2)
    assert np.array_equal(frontal(finding, key=1), frontal(finding, key=1))
    assert not np.array_equal(frontal(finding, key=1), frontal(finding, key=2))


def test_a_lateral_image_shows_effusion_at_the_base_and_differs_from_a_frontal_one():
    normal = render_lateral(ANATOMY, (), [1], SIZE).astype(float)
    fluid = render_lateral(ANATOMY, (Finding("pleural_effusion", "left", "lower", 2),), [1], SIZE).astype(
        float
    )
    rows = np.abs(fluid - normal).sum(axis=1)
    assert rows[SIZE // 2 :].sum() > 0.95 * rows.sum() > 0
    assert np.abs(normal - frontal()).mean() > 20


@pytest.mark.slow
def test_studies_hold_what_the_benchmark_needs():
    studies = [draw_findings(np.random.default_rng([1, number])) for number in range(2000)]
    single = [study[0].name for study in studies if len(study) == 1]
    for name in BENCHMARK:
        assert single.count(name) > 0.07 * len(studies)
    assert 0.15 < sum(not study for study in studies) / len(studies) < 0.25
    assert any(len(study) >= 2 for study in studies)
    assert 0.02 < np.mean([not f.certain for study in studies for f in study]) < 0.09
    for study in studies:
        assert [f.name for f in study] == [name for name in FINDINGS if name in {f.name for f in study}]


@pytest.mark.slow
def test_a_linear_classifier_on_tiny_images_separates_the_benchmark_classes():
    from sklearn.linear_model import LogisticRegression

    images, classes = [], []
    for number in range(320):
        rng = np.random.default_rng([2, number])
        anatomy = draw_anatomy(rng)
        label = number % len(BENCHMARK)
        study = ()
        while [finding.name for finding in study] != [BENCHMARK[label]]:
            study = draw_findings(rng)
        image = render_frontal(anatomy, study, "none", False, [2, number], 96).astype(float)
        images.append(image.reshape(24, 4, 24, 4).mean(axis=(1, 3)).ravel() / 64 - 2)
        classes.append(label)
    model = LogisticRegression(C=0.01, max_iter=200).fit(images[:240], classes[:240])
    accuracy = model.score(images[240:], classes[240:])
    assert accuracy > 0.6, f"{accuracy:.2f}, chance is 0.20"
