"""Findings and sides that texts mention: hand-written sentences, and the phantom's reports against what was drawn."""

import numpy as np
import pytest

from medunifier.metrics.mentions import NARROWER, findings_mentioned
from medunifier.phantom.anatomy import draw_anatomy
from medunifier.phantom.findings import FINDINGS, draw_findings
from medunifier.phantom.reports import Facts, findings_section, impression_section


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("There is a large left pleural effusion.", {"pleural_effusion": "left"}),
        ("large LEFT pleural effusion", {"pleural_effusion": "left"}),
        ("No pleural effusion or pneumothorax.", {}),
        ("There is no pneumothorax, but a small right-sided effusion.", {"pleural_effusion": "right"}),
        ("No consolidation. There is right basilar atelectasis.", {"atelectasis": "right"}),
        ("Bilateral pleural effusions, right greater than left.", {"pleural_effusion": "both"}),
        ("Left and right pleural effusions are unchanged.", {"pleural_effusion": "both"}),
        (
            "Small right pneumothorax and moderate left pleural effusion.",
            {"pneumothorax": "right", "pleural_effusion": "left"},
        ),
        (
            "Atelectasis in the left lower lung and small right effusion.",
            {"atelectasis": "left", "pleural_effusion": "right"},
        ),
        ("Right effusion. The left effusion has grown.", {"pleural_effusion": "both"}),
        ("The heart is mildly enlarged; lungs are clear.", {"cardiomegaly": None}),
        ("The cardiac silhouette is moderately enlarged.", {"cardiomegaly": None}),
        ("Heart size is normal. The lungs are free of edema.", {}),
        ("Possible mild pneumonia in the right mid lung.", {"pneumonia": "right"}),
        ("The right lung is clear. Pneumothorax.", {"pneumothorax": None}),
        ("", {}),
    ],
)
def test_hand_written_sentences(text, mentioned):
    assert findings_mentioned(text, FINDINGS) == mentioned


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("There is an infiltration. There is a nodule.", {"infiltration", "nodule"}),
        (
            "There is a mass. There is pleural thickening. There is a hiatal hernia.",
            {"mass", "pleural_thickening", "hernia"},
        ),
        ("There are fibrotic changes, emphysema and infiltrates.", {"fibrosis", "emphysema", "infiltration"}),
        ("There is viral pneumonia.", {"viral_pneumonia"}),
        ("There is bacterial pneumonia and no nodule.", {"bacterial_pneumonia"}),
    ],
)
def test_findings_that_only_some_data_sets_label(text, mentioned):
    assert set(findings_mentioned(text, tuple(NARROWER))) == mentioned


def test_a_label_without_known_words_goes_by_its_name():
    assert findings_mentioned("COVID 19 in the left lung.", ("covid_19",)) == {"covid_19": "left"}


def test_the_phantoms_reports_mention_what_was_drawn():
    """Every finding that the phantom has, on its side, and no other; the heart and the haze have none."""
    rng = np.random.default_rng(0)
    for _ in range(400):
        facts = Facts(draw_anatomy(rng), draw_findings(rng), "none", portable=False)
        sentences = findings_section(facts, rng) + impression_section(facts, rng)
        mentioned = findings_mentioned(" ".join(sentence.text for sentence in sentences), FINDINGS)
        drawn = {f.name: None if f.side == "none" else f.side for f in facts.findings}
        assert mentioned.keys() == drawn.keys()
        assert {k: v for k, v in mentioned.items() if k != "edema"} == {
            k: v for k, v in drawn.items() if k != "edema"
        }
