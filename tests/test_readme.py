"""README says what is so."""

import re
from pathlib import Path

from stages.datasets.rejects import Reason
from stages.pipeline import read_yaml

REPO = Path(__file__).parents[1]
README = (REPO / "README.md").read_text(encoding="utf-8")


def test_every_reason_for_a_rejection_is_explained():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", README, flags=re.MULTILINE))
    assert {r.value: r.explanation for r in Reason}.items() <= rows.items()


def test_the_table_of_stages_is_dvc_yaml_s():
    families = read_yaml(REPO / "dvc.yaml")["stages"]
    named = re.findall(r"^\| `([a-z_]+)(?:@[A-Z-]+)?` \|", README, flags=re.MULTILINE)
    assert [name for name in named if name in families] == list(families)


def test_presets_and_figures_named_are_there():
    named = set(re.findall(r"^\| `([a-z-]+)`", README, flags=re.MULTILINE))
    assert {p.stem for p in (REPO / "workflow/presets").glob("*.yaml")} <= named
    for picture in re.findall(r"!\[.*?\]\((.+?)\)", README):
        assert (REPO / picture).is_file()


def test_make_targets_named_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", README, flags=re.MULTILINE)) <= targets


def test_every_choice_of_the_release_is_told_and_set():
    def leaves(tree, path=""):
        for key, value in tree.items():
            yield from leaves(value, f"{path}{key}.") if isinstance(value, dict) else [(path + key, value)]

    paper, release = (
        dict(leaves(read_yaml(REPO / f"workflow/presets/{name}.yaml"))) for name in ("paper", "release")
    )
    told = re.findall(
        r"^\| [^|]+ \| `([a-z_.]+)` \|", (REPO / "docs/release.md").read_text("utf-8"), re.MULTILINE
    )
    assert sorted(told) == sorted(key for key in paper if paper[key] != release[key] and key != "preset")
