"""The data sets without reports through `prepare` and `decode_images`: splits, benchmarks, lists, overlap, --check."""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from medunifier.data.overlaps import count_overlaps, find_overlaps
from medunifier.data.preparation.check import check_dataset
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import load_params
from medunifier.storage.image_shards import ImageStore
from medunifier.tracking import LocalRun
from stages.decode_images import decode_images
from tests.stages.test_prepare import REPO, covid_settings, run_settings
from tests.support.fake_chexpert import FakeChexpert
from tests.support.fake_covid import FakeCovid
from tests.support.fake_covidx import FakeCovidx
from tests.support.fake_files import image_file, pixels, put
from tests.support.fake_iu_xray import FakeIuXray
from tests.support.fake_mimic import benchmark
from tests.support.fake_rsna import FakeRsna
from tests.support.fake_siim import FakeSiim

PNEUMONIA = {"classes": ("pneumonia", "no_pneumonia"), "rule": "five_only", "pool": "all"}


@pytest.fixture
def rsna(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FakeRsna(tmp_path / "rsna")
    for number in range(40):
        fake.add(f"p{number:02}", boxes=(number % 4) // 2)
    fake.write()
    return fake


def decode(name, settings):
    params = load_params(REPO / "params.yaml").replace(datasets={name: settings})
    decode_images(params, LocalRun(f"decode_images@{name}", "metrics"), name)


def test_rsna_s_splits_hold_all_patients_once(rsna):
    tables, summary = run_settings(rsna.settings())
    assert summary["kept"] == {"train": 28, "validate": 6, "test": 6}
    assert tables["train"]["report"].null_count() == 28 and tables["train"]["view"][0] == "PA"
    assert summary["index"]["images"] == "stage_2_train_labels.csv"


def test_a_zero_shot_set_of_the_whole_data_set_may_leave_its_patients_where_they_are(rsna):
    chosen = benchmark(**PNEUMONIA, per_class=8, remove="none")
    params = load_params(REPO / "params.yaml")
    from stages.prepare import prepare

    params = params.replace(datasets={"rsna": rsna.settings(benchmark=chosen)})
    prepare(params, LocalRun("prepare@rsna", "metrics"), "rsna")
    folder = Path("data/prepared/rsna")
    table = pl.read_parquet(folder / "benchmark.parquet")
    assert table.group_by("benchmark_class").agg(pl.col("label_pneumonia").unique().sort()).sort(
        "benchmark_class"
    ).rows() == [("no_pneumonia", [0]), ("pneumonia", [1])]
    splits = {name: pl.read_parquet(folder / f"{name}.parquet") for name in ("train", "validate", "test")}
    assert [len(split) for split in splits.values()] == [28, 6, 6]
    in_training = set(table["image_id"]) & set(splits["train"]["image_id"])
    notes = json.loads((folder / "summary.json").read_text())["notes"]
    assert 0 < len(in_training) == notes["benchmark_images_in_training"] < len(table)
    assert len(pl.read_parquet(folder / "manifest.parquet")) == 40, "an image of both is decoded once"
    decode("rsna", params.datasets["rsna"])
    found = find_overlaps(["rsna"], Path("data/prepared"), Path("data/images"))
    assert found.is_empty(), "an image is no copy of itself"


def test_benchmark_patients_leave_every_split(rsna):
    _, summary = run_settings(rsna.settings(benchmark=benchmark(**PNEUMONIA, per_class=8)))
    assert summary["kept"]["benchmark"] == 16 and sum(summary["kept"].values()) == 40
    with pytest.raises(InputError, match=r"the data set holds fewer images .* pneumonia 20, no_pneumonia 20"):
        run_settings(rsna.settings(benchmark=benchmark(**PNEUMONIA, per_class=21)))


def test_the_chosen_ids_can_be_given_back_as_a_list(rsna):
    _, summary = run_settings(rsna.settings(benchmark=benchmark(**PNEUMONIA, per_class=4)), name="first")
    put(rsna.root / "mine.csv", Path("results/subsets/first.csv").read_bytes())
    listed = rsna.settings(benchmark=benchmark(**{**PNEUMONIA, "rule": "list"}, per_class=4), split="list")
    index = listed.index.replace(lists="mine.csv")
    _, same = run_settings(listed.replace(index=index), name="again", seed=9)
    assert same["image_ids_sha256"] == summary["image_ids_sha256"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,benchmark_class\np00,mass\n", "class mass; expected one of pneumonia, no_pneumonia"),
        (
            "image_id,benchmark_class\np00,pneumonia\n",
            "lists pneumonia 1, no_pneumonia 0; .*asks for 1 of each",
        ),
        (
            "image_id,benchmark_class\np00,no_pneumonia\nxx,pneumonia\n",
            "1 of 2 listed images are not in .*: xx",
        ),
        ("image_id\np00\n", "no column 'benchmark_class'"),
    ],
)
def test_lists_that_cannot_be_used(rsna, text, message):
    put(rsna.root / "mine.csv", text)
    listed = rsna.settings(benchmark=benchmark(**{**PNEUMONIA, "rule": "list"}, per_class=1))
    listed = listed.replace(index=listed.index.replace(lists="mine.csv"))
    with pytest.raises(InputError, match=f"mine.csv: .*{message}"):
        run_settings(listed)


def test_a_split_list_that_lacks_an_image_rejects_it(rsna):
    lines = [f"p{n:02},{('train', 'validate', 'test')[n % 3]}" for n in range(39)]
    put(rsna.root / "mine.csv", "\n".join(["image_id,split", *lines]))
    settings = rsna.settings(split="list")
    settings = settings.replace(index=settings.index.replace(lists="mine.csv"))
    tables, summary = run_settings(settings)
    assert summary["kept"] == dict.fromkeys(("train", "validate", "test"), 13)
    assert tables["rejected"].row(0) == ("p39", "p39", "missing_split", "not in mine.csv")


def test_siim_is_split_by_image_so_that_rows_of_one_never_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FakeSiim(tmp_path / "siim")
    for number in range(20):
        fake.add(f"1.{number}", *(("0 5", "9 5", "30 2") if number % 2 else ()))
    fake.write()
    tables, summary = run_settings(fake.settings())
    assert summary["raw"] == 20 and summary["kept"] == {"train": 14, "validate": 3, "test": 3}
    assert sum(tables[split]["label_pneumothorax"].sum() for split in ("train", "validate", "test")) == 10


def test_chexpert_leaves_lateral_views_out_and_keeps_valid_csv_for_the_test(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FakeChexpert(tmp_path / "CheXpert-v1.0-small")
    for number in range(20):
        fake.add(number, atelectasis="1.0" if number % 2 else "", edema="" if number % 2 else "1.0")
    fake.add(50, view="LL")
    fake.add(51, side="Lateral", view="")
    fake.add(52, view="RL")
    fake.add(60, split="valid")
    fake.write()
    tables, summary = run_settings(fake.settings(benchmark=benchmark(per_class=3)))
    assert summary["rejected"] == {"other_view": 3} and summary["kept"]["test"] == 1
    assert tables["rejected"]["detail"].to_list() == ["view is LL", "view is LATERAL", "view is RL"]
    assert summary["benchmark"]["classes"] == {"atelectasis": 3, "edema": 3}


def test_a_benchmark_is_frontal_whatever_views_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FakeChexpert(tmp_path / "CheXpert-v1.0-small")
    for number in range(60):
        labels = {"atelectasis": "1.0"} if number % 2 else {"edema": "1.0"}
        side, view = (("Frontal", "PA"), ("Lateral", ""), ("Frontal", "LL"))[number // 2 % 3]
        fake.add(number, side=side, view=view, **labels)
    fake.add(70, split="valid")
    fake.write()
    tables, summary = run_settings(fake.settings(views=None, benchmark=benchmark(per_class=10)))
    assert summary["rejected"] == {} and set(tables["benchmark"]["view"]) == {"PA"}
    assert {"LATERAL", "LL"} <= set(tables["train"]["view"])
    with pytest.raises(
        InputError, match=r"\(frontal images, where views are known\): atelectasis 10, edema 10"
    ):
        run_settings(fake.settings(views=None, benchmark=benchmark(per_class=11)))
    # A list of the user's own may name any image.
    lateral = tables["train"].filter(view="LATERAL")["image_id"]
    classes = ["atelectasis" if int(name[13:18]) % 2 else "edema" for name in lateral]
    chosen = {
        name: [i for i, c in zip(lateral, classes, strict=True) if c == name]
        for name in ("atelectasis", "edema")
    }
    lines = [f"{images[0]},{name}" for name, images in chosen.items()]
    put(fake.root / "mine.csv", "\n".join(["image_id,benchmark_class", *lines]))
    listed = fake.settings(views=None, benchmark=benchmark(per_class=1, rule="list"))
    listed = listed.replace(index=listed.index.replace(lists="mine.csv"))
    tables, _ = run_settings(listed)
    assert tables["benchmark"]["view"].to_list() == ["LATERAL", "LATERAL"]


def test_patients_of_covidx_s_test_list_leave_training_and_rsna_s_images_are_found(rsna):
    fake = FakeCovidx(rsna.root.parent / "covidx")
    for number in range(12):
        fake.add(f"{number} {number}.png normal rsna", f"{number}.png")
    fake.add("3 again.png normal rsna", "again.png", "test")

    # COVIDx's PNGs have the grey values of RSNA's JPEG frames, as libjpeg decodes them.
    def shown(patient):
        jpeg = image_file(pixels(patient), "JPEG")
        return image_file(np.asarray(Image.open(io.BytesIO(jpeg))), "PNG")

    tables, _ = run_settings(rsna.settings(), name="rsna")
    trained, tested = tables["train"]["image_id"][0], tables["test"]["image_id"][0]
    fake.add("90 copy.png normal rsna", "copy.png", "test", shown(trained))
    for number in range(20, 24):
        fake.add(f"{number} {number}.png pneumonia rsna", f"{number}.png", "train", shown(tested))
    fake.write()
    tables, summary = run_settings(fake.settings(), name="covidx")
    assert summary["rejected"] == {"test_patient": 1}
    assert tables["rejected"]["image_id"].to_list() == ["3.png"]
    decode("rsna", rsna.settings())
    decode("covidx", fake.settings())
    found = find_overlaps(["rsna", "covidx"], Path("data/prepared"), Path("data/images"))
    assert count_overlaps(found).rows() == [("covidx", "test", "rsna", 1), ("rsna", "test", "covidx", 1)]
    assert ("covidx", "test", "copy.png", "rsna", trained) in found.rows()


def test_a_file_name_in_both_of_covidx_s_lists_is_a_test_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FakeCovidx(tmp_path / "covidx")
    for number in range(10):
        fake.add(f"{number} {number}.png normal rsna", f"{number}.png")
    fake.add("90 4.png pneumonia rsna", "4.png", "test")
    fake.write()
    tables, summary = run_settings(fake.settings())
    assert tables["test"].select("image_id", "patient_id", "image_path").rows() == [
        ("4.png", "90", "test/4.png")
    ]
    assert tables["rejected"].row(0)[::2] == ("4.png", "duplicate_id")
    assert summary["rejected"] == {"duplicate_id": 1} and summary["kept"]["train"] == 7


@pytest.mark.parametrize("form", ["xml", "packed", "tables"])
def test_iu_xray_goes_through_with_images_of_either_copy(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    fake = FakeIuXray(tmp_path / "iu")
    for number in range(1, 21):
        fake.add(number, ("IM-0001-1001", "IM-0001-2001"))
    fake.add(30, findings="", impression="")
    fake.write_tables() if form == "tables" else fake.write_xml(packed=form == "packed")
    images = "NLMCXR_reports.tgz" if form == "packed" else "ecgen-radiology"
    settings = fake.table_settings() if form == "tables" else fake.settings(images)
    tables, summary = run_settings(settings, name="iu")
    assert summary["raw"] == 41 and summary["rejected"] == {"missing_text": 1}
    assert tables["train"]["report"][0] == "Clear. Normal."
    decode("iu", settings)


def test_covid_chestxray_with_the_settings_of_its_preset(tmp_path, monkeypatch):
    """Frontal radiographs with notes are kept, a patient's in one split, and decoded; all else has its reason."""
    monkeypatch.chdir(tmp_path)
    fake = FakeCovid(tmp_path / "covid")
    findings = ("Pneumonia/Viral/COVID-19", "COVID-19, ARDS", "No Finding", "SARS")
    for patient in range(30):
        for number, view in enumerate(("PA", "AP", "AP Supine")):
            name = f"{patient}-{number}.{'png' if patient % 5 == 0 else 'jpg'}"
            fake.add(str(patient), name, view=view, finding=findings[patient % 4])
    fake.add("0", "lateral.jpg", view="L")
    fake.add("0", "oblique.jpg", view="AP Erect oblique")
    fake.add("1", "slice.jpg", view="Axial", modality="CT", folder="volumes")
    fake.add("1", "slice-called-pa.jpg", modality="CT")
    fake.add("2", "silent.jpg", clinical_notes=" ")
    fake.add("3", "gone.jpg").unlink()
    cut = fake.add("4", "cut.jpg")
    cut.write_bytes(cut.read_bytes()[:-400])
    fake.write()
    settings = covid_settings(fake.root)
    tables, _ = run_settings(settings, name="covid")
    rejected = dict(tables["rejected"].select("image_id", "reason").iter_rows())
    assert rejected == {
        "lateral.jpg": "other_view", "oblique.jpg": "other_view", "slice.jpg": "other_modality",
        "slice-called-pa.jpg": "other_modality", "silent.jpg": "missing_text", "gone.jpg": "missing_image",
    }  # fmt: skip
    splits = {name: tables[name] for name in ("train", "validate", "test")}
    assert sum(map(len, splits.values())) == 91 and min(map(len, splits.values())) > 0
    patients = [set(table["patient_id"]) for table in splits.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 30, "no patient is in two splits"
    kept = pl.concat(splits.values())
    assert dict(kept["view"].value_counts().iter_rows()) == {"PA": 31, "AP": 30, "AP Supine": 30}
    assert kept.filter(image_id="7-2.jpg")["report"].item() == "Notes on 7-2.jpg."
    labels = ("label_covid_19", "label_no_finding", "label_other_pneumonia")
    assert [int(kept[label].sum()) for label in labels] == [16 * 3 + 1, 7 * 3, 7 * 3]
    decode("covid", settings)
    broken = pl.read_parquet("data/images/covid/rejected.parquet")
    assert broken["image_id"].to_list() == ["cut.jpg"]
    store = ImageStore("data/images/covid")
    assert len(store) == 90
    pixels_of = store.read(store.rows(["7-2.jpg"]))[0]
    with Image.open(fake.root / "images/7-2.jpg") as image:
        whole = np.asarray(image.resize((224, 224), Image.Resampling.LANCZOS), int)
    assert np.abs(pixels_of - whole).max() <= 2


def test_check_lists_what_is_there_and_what_would_be_rejected(rsna):
    (rsna.root / "stage_2_train_images/p07.dcm").unlink()
    broken = rsna.root / "stage_2_train_images/p00.dcm"
    broken.write_bytes(broken.read_bytes()[:400])
    text = "\n".join(check_dataset("rsna", rsna.settings(benchmark=benchmark(**PNEUMONIA, per_class=4)), 0))
    for words in (
        "found    stage_2_train_labels.csv (images, labels, split, checksums, lists)",
        "40 images of 40 patients",
        "kept     39: train 27, validate 6, test 6",
        "rejected 1 missing_image: the image's file is not there; first p07",
        "no problem found; nothing was written",
        "decoded  11 of 12 images tried",
        "broken   stage_2_train_images/p00.dcm: ",
        "benchmark pneumonia 4, no_pneumonia 4",
        "nothing was written",
    ):
        assert words in text, text
    assert not Path("data").exists() and not Path("results").exists()


def test_check_lists_all_that_is_missing_and_where_to_get_it(rsna):
    settings = rsna.settings()
    index = settings.index.replace(labels="a.csv", split="b.csv")
    with pytest.raises(
        InputError, match=r"lacks a.csv \(labels\) \(the folder has stage_2.*\); b.csv \(split\).*kaggle.com"
    ):
        list(check_dataset("rsna", settings.replace(index=index), 0))
    with pytest.raises(InputError, match=r"datasets\.rsna\.root: no such folder\. Get the data set: https"):
        list(check_dataset("rsna", settings.replace(root="nowhere"), 0))
    with pytest.raises(InputError, match=r"no such folder\. The stage simulate .* run `dvc repro simulate`"):
        list(check_dataset("phantom-rsna", settings.replace(root="data/simulated/rsna"), 0))
