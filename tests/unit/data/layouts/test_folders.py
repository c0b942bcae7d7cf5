"""Layout `folders`: classes, patients and splits from paths, as Kermany's data set has them, and odd patterns."""

import re
import time
from collections import Counter

import polars as pl
import pytest

from medunifier.data.layouts import RAW_IMAGES, folders
from medunifier.data.preparation.check import check_dataset
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import FoldersLayout, load_params
from tests.stages.test_prepare import SPLITS, run_settings
from tests.support.fake_files import image_file, pixels, put, settings
from tests.support.paths import REPO, SHARED
from tests.unit.data.layouts.test_layouts_together import decode

REAL = SHARED / "data" / "kermany-pneumonia"
SENTENCES = str(REPO / "workflow/label_sentences.yaml")


def kermany(root):
    preset = load_params(REPO / "workflow/presets/kermany.yaml")
    return preset.datasets["kermany"].replace(root=str(root))


def own(root, **patterns):
    return settings("folders", root, "images.txt", folders=FoldersLayout(**patterns))


def listed(root, *paths, end="\n"):
    put(root / "images.txt", end.join(paths))
    return paths


def test_classes_are_the_folders_and_each_image_is_a_patient(tmp_path):
    listed(tmp_path, "./TB/a.png", "./No TB/b.jpg", "", "TB/._a.png", end="\r\n")
    raw = folders.read_images(own(tmp_path))
    RAW_IMAGES.check(raw.rows, "test")
    assert raw.rows.select("image_id", "image_path", "patient_id", "label_no_tb", "label_tb").rows() == [
        ("TB/a.png", "TB/a.png", "TB/a.png", 0, 1),
        ("No TB/b.jpg", "No TB/b.jpg", "No TB/b.jpg", 1, 0),
    ]
    assert raw.notes == {"hidden_files": 1, "images_without_patient": 2}
    assert "each of 2 images counts as a patient of its own" in raw.warnings[0]


def test_kermany_s_layout_with_the_preset(tmp_path, monkeypatch):
    """Bacteria and virus from the file names, patients from them too; a patient of the test folder is no training one."""
    monkeypatch.chdir(tmp_path)
    root, paths = tmp_path / "kermany", []
    for number in range(1, 21):
        paths.append(f"train/PNEUMONIA/person{number}_{'virus' if number % 2 else 'bacteria'}_{number}.jpeg")
        paths.append(f"train/NORMAL/{'NORMAL2-' if number % 2 else ''}IM-{number:04}-0001.jpeg")
    paths += ["train/PNEUMONIA/person3_bacteria_99.jpeg", "test/PNEUMONIA/person4_virus_98.jpeg"]
    paths += ["test/NORMAL/IM-0100-0001-0002.jpeg", "test/NORMAL/IM-0100-0001.jpeg"]
    paths = [f"chest_xray/{path}" for path in paths]
    for path in paths:
        put(root / path, image_file(pixels(path), "JPEG"))
    listed(root, *paths)
    tables, summary = run_settings(kermany(root), name="kermany", label_sentences=SENTENCES)
    assert tables["rejected"].select("image_id", "reason").rows() == [
        ("chest_xray/train/PNEUMONIA/person4_bacteria_4.jpeg", "test_patient")
    ]
    assert summary["patients"]["test"] == 2 and summary["kept"]["test"] == 3
    kept = pl.concat([tables[split] for split in SPLITS])
    for row in kept.iter_rows(named=True):
        kind = next(word for word in ("NORMAL", "bacteria", "virus") if word in row["image_id"])
        values = [row[f"label_{name}"] for name in ("no_finding", "bacterial_pneumonia", "viral_pneumonia")]
        assert values == [kind == "NORMAL", kind == "bacteria", kind == "virus"]
        assert row["patient_id"] == re.search(r"person\d+|(?:NORMAL2-)?IM-\d+", row["image_id"])[0]
    assert set(kept["report"]) == {
        "No abnormality is seen.", "There is bacterial pneumonia.", "There is viral pneumonia."
    }  # fmt: skip
    decode("kermany", kermany(root))


def test_kermany_s_third_version_names_files_otherwise(tmp_path):
    """DISEASE-PATIENT-NUMBER.jpeg, as Mendeley distributes it now; a patient may have several images and diseases."""
    folder = "chest_xray/train"
    listed(
        tmp_path,
        f"{folder}/NORMAL/NORMAL-1003233-0001.jpeg",
        f"{folder}/PNEUMONIA/BACTERIA-1008087-0001.jpeg",
        f"{folder}/PNEUMONIA/BACTERIA-1008087-0002.jpeg",
        f"{folder}/PNEUMONIA/VIRUS-1008087-0001.jpeg",
        "chest_xray/test/PNEUMONIA/BACTERIA-40699-0001.jpeg",
    )
    raw = folders.read_images(kermany(tmp_path))
    labels = ("label_no_finding", "label_bacterial_pneumonia", "label_viral_pneumonia")
    assert raw.rows.select("patient_id", "split", *labels).rows() == [
        ("1003233", None, 1, 0, 0),
        ("1008087", None, 0, 1, 0),
        ("1008087", None, 0, 1, 0),
        ("1008087", None, 0, 0, 1),
        ("40699", "test", 0, 1, 0),
    ]
    assert raw.warnings == []


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"class_pattern": "("}, r"folders\.class_pattern: '\(' is no regular expression"),
        ({"class_pattern": "TB"}, "finds nothing in 2 of 2 paths, first 'TB/a.png'; it needs one group"),
        ({"patient_pattern": r"(\d+)"}, r"folders\.patient_pattern .* finds nothing in 2 of 2 paths"),
        ({"patient_pattern": r"(?=a)(a)"}, "no regular expression of Rust's syntax"),
        ({"class_pattern": r"((?:x{1000}){1000}){1000}"}, "or too large"),
        ({"split_pattern": "^([^/]+)/"}, r"split_pattern finds ok, tb; expected train"),
        ({"classes": {"tb": "TB"}}, r"class_pattern finds ok; folders\.classes has TB"),
    ],
)
def test_patterns_that_cannot_be_used(tmp_path, patterns, message):
    listed(tmp_path, "TB/a.png", "ok/b.png") if "split_pattern" not in patterns else listed(
        tmp_path, "tb/a.png", "ok/b.png"
    )
    with pytest.raises(InputError, match=message):
        folders.read_images(own(tmp_path, **patterns))


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(?:a|aa|a?)*(b)", r"(.*)*(.*)*c"]
)
def test_no_pattern_runs_away(tmp_path, pattern):
    """Each takes a backtracking engine (Python's) longer than anyone waits on such a path."""
    listed(tmp_path, *(f"x/{'a' * 200}{number}!" for number in range(500)))
    start = time.perf_counter()
    with pytest.raises(InputError, match="finds nothing"):
        folders.read_images(own(tmp_path, class_pattern=pattern))
    assert time.perf_counter() - start < 5


def test_a_folder_in_place_of_the_list_is_refused(tmp_path):
    (tmp_path / "images.txt").mkdir()
    with pytest.raises(InputError, match=r"images\.txt: not a file"):
        folders.read_images(own(tmp_path))
    put(tmp_path / "hidden.txt", ".DS_Store\n")
    hidden = settings("folders", tmp_path, "hidden.txt")
    with pytest.raises(InputError, match="lists no image, only hidden files"):
        folders.read_images(hidden)


def test_more_classes_than_labels_can_be_told_apart(tmp_path):
    listed(tmp_path, "T B/a.png", "T-B/b.png")
    with pytest.raises(InputError, match="2 classes that make no distinct labels"):
        folders.read_images(own(tmp_path))
    listed(tmp_path, *(f"x/{number}.png" for number in range(200)))
    with pytest.raises(InputError, match="finds 200 classes"):
        folders.read_images(own(tmp_path, class_pattern=r"/(\d+)"))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data set is not at {REAL}")
def test_the_real_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "kermany"
    root.mkdir()
    (root / "chest_xray").symlink_to(REAL / "chest_xray")
    paths = [
        f"chest_xray/{path.relative_to(REAL / 'chest_xray')}"
        for path in (REAL / "chest_xray").rglob("*.jpeg")
    ]
    listed(root, *sorted(paths))
    tables, summary = run_settings(kermany(root), name="kermany", label_sentences=SENTENCES)
    assert summary["raw"] == len(paths) and summary["rejected"] == {}
    assert summary["kept"]["test"] == sum("/test/" in path for path in paths)
    kept = pl.concat([tables[split] for split in SPLITS])
    kinds = Counter(next(word for word in ("NORMAL", "bacteria", "virus") if word in path) for path in paths)
    found = [
        int(kept[f"label_{name}"].sum()) for name in ("no_finding", "bacterial_pneumonia", "viral_pneumonia")
    ]
    assert found == [kinds["NORMAL"], kinds["bacteria"], kinds["virus"]]
    assert "decoded  12 of 12" in "\n".join(check_dataset("kermany", kermany(root), 0, SENTENCES))
