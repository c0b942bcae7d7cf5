"""README says what is so."""

import importlib.util
import re
import sys

from ruamel.yaml import YAML

from medunifier.data.layouts import LAYOUTS
from medunifier.data.preparation.rejects import Reason
from medunifier.runtime.params import load_params
from medunifier.runtime.yaml import read_mapping
from medunifier.storage.image_shards import ImageStore
from tests.stages.test_prepare import SPLITS, run_settings
from tests.support.fake_files import put
from tests.support.fake_mimic import jpeg, write_csv
from tests.support.paths import REPO
from tests.unit.data.layouts.test_layouts_together import decode

README = (REPO / "README.md").read_text(encoding="utf-8")


def test_every_reason_for_a_rejection_is_explained():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", README, flags=re.MULTILINE))
    assert {r.value: r.explanation for r in Reason}.items() <= rows.items()


def test_the_table_of_stages_is_dvc_yaml_s():
    families = read_mapping(REPO / "dvc.yaml")["stages"]
    named = re.findall(r"^\| `([a-z_]+)(?:@[A-Z-]+)?` \|", README, flags=re.MULTILINE)
    assert [name for name in named if name in families] == list(families)


def test_presets_and_figures_named_are_there():
    named = set(re.findall(r"^\| `([a-z-]+)`", README, flags=re.MULTILINE))
    assert {p.stem for p in (REPO / "workflow/presets").glob("*.yaml")} <= named
    for image in re.findall(r"!\[.*?\]\((.+?)\)", README):
        assert (REPO / image).is_file()


def test_make_targets_named_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", README, flags=re.MULTILINE)) <= targets


def test_the_data_set_shown_as_an_example_goes_through(tmp_path, monkeypatch):
    """The module, the line of the registry and the entry of params.yaml, as README prints them."""
    shown = README[README.index("A data set of your own") :]
    module, line, entry = re.findall(r"```(?:python|yaml)\n(.*?)```", shown, flags=re.DOTALL)[:3]
    name, imported = re.fullmatch(r' +"(\w+)": "([\w.]+)",\n', line).groups()
    spec = importlib.util.spec_from_file_location(imported, put(tmp_path / "hospital.py", module))
    monkeypatch.setitem(sys.modules, imported, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(sys.modules[imported])
    monkeypatch.setitem(LAYOUTS, name, imported)
    assert f"`{imported.replace('.', '/')}.py` is" in shown

    yaml = YAML(typ="safe")
    whole = yaml.load((REPO / "params.yaml").read_text(encoding="utf-8"))
    whole["datasets"] |= yaml.load(entry)["datasets"]
    with (tmp_path / "params.yaml").open("w") as file:
        yaml.dump(whole, file)
    settings = load_params(tmp_path / "params.yaml").datasets[name]
    settings = settings.replace(root=str(tmp_path / "hospital"))

    monkeypatch.chdir(tmp_path)
    rows = [
        {"file": f"{number}.jpg", "patient": f"p{number // 2}", "view": "PA", "pneumonia": number % 2,
         "findings": f"Film {number}.", "impression": "Clear."}
        for number in range(40)
    ]  # fmt: skip
    for row in rows:
        put(tmp_path / "hospital/images" / row["file"], jpeg(row["file"]))
    rows += [rows[7], {**rows[0], "file": "side.jpg", "view": "LATERAL"}, {**rows[0], "file": "gone.jpg"}]
    rows[3] |= {"findings": "", "impression": ""}
    write_csv(tmp_path / "hospital/studies.csv", rows)
    tables, summary = run_settings(settings, name=name)
    assert summary["rejected"] == dict.fromkeys(
        ("duplicate_id", "other_view", "missing_image", "missing_text"), 1
    )
    kept = {row["image_id"]: row for split in SPLITS for row in tables[split].iter_rows(named=True)}
    assert len(kept) == 39 and kept["7.jpg"]["report"] == "Film 7. Clear."
    assert all(row["label_pneumonia"] == int(image[:-4]) % 2 for image, row in kept.items())
    decode(name, settings)
    assert len(ImageStore(f"data/images/{name}")) == 39


def test_every_choice_of_the_release_is_told_and_set():
    def leaves(tree, path=""):
        for key, value in tree.items():
            yield from leaves(value, f"{path}{key}.") if isinstance(value, dict) else [(path + key, value)]

    paper, release = (
        dict(leaves(read_mapping(REPO / f"workflow/presets/{name}.yaml"))) for name in ("paper", "release")
    )
    told = re.findall(
        r"^\| [^|]+ \| `([a-z_.]+)` \|", (REPO / "docs/release.md").read_text("utf-8"), re.MULTILINE
    )
    assert sorted(told) == sorted(key for key in paper if paper[key] != release[key] and key != "preset")
