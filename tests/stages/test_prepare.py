import csv
import errno
import hashlib
import json
import os
from pathlib import Path

import polars as pl
import pytest

from medunifier.data.preparation.prepared_tables import check_patients
from medunifier.data.preparation.rejects import Reason
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import NO_FILE, load_params
from medunifier.storage.tables import BENCHMARK, MANIFEST, PREPARED, REJECTED, read_table
from medunifier.tracking import LocalRun
from stages.prepare import prepare
from tests.support.fake_mimic import BOTH, HEAD, FakeMimic, benchmark
from tests.support.paths import REPO

REAL = REPO.parent / "shared" / "data" / "covid-chestxray"
SPLITS = ("train", "validate", "test")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Three clean images, one for each split, and a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    fake = FakeMimic(tmp_path)
    for number, split in enumerate(SPLITS):
        fake.add(f"clean-{split}", f"1000000{number}", f"5000000{number}", split=split)
    return fake


def run(fake, *, seed=0, **changes):
    fake.write()
    return run_settings(fake.settings(**changes), seed=seed)


def run_settings(settings, *, seed=0, name="fake", label_sentences=NO_FILE):
    """Run the stage; returns its tables by name, and its summary."""
    params = load_params(REPO / "workflow" / "presets" / "demo.yaml")
    params = params.replace(seed=seed, datasets={name: settings}, label_sentences=label_sentences)
    prepare(params, LocalRun(f"prepare@{name}", "metrics"), name)
    folder = Path("data/prepared") / name
    schemas = dict.fromkeys(SPLITS, PREPARED) | {
        "benchmark": BENCHMARK,
        "manifest": MANIFEST,
        "rejected": REJECTED,
    }
    tables = {path.stem: read_table(path, schemas[path.stem]) for path in folder.glob("*.parquet")}
    summary = json.loads((folder / "summary.json").read_text())
    reconcile(tables, summary)
    return tables, summary


def reconcile(tables, summary):
    """What must hold of every data set: the counts add up, no patient leaks, the manifest fits."""
    kept = {name: len(tables[name]) for name in (*SPLITS, "benchmark") if name in tables}
    assert summary["kept"] == kept
    assert sum(summary["rejected"].values()) == len(tables["rejected"])
    assert summary["raw"] == sum(kept.values()) + len(tables["rejected"])
    assert set(tables["rejected"]["reason"]) <= {reason.value for reason in Reason}
    patients = [set(tables[name]["patient_id"]) for name in SPLITS]
    assert sum(map(len, patients)) == len(set.union(*patients))
    ids = pl.concat([tables[name]["image_id"] for name in kept])
    assert tables["manifest"]["image_id"].to_list() == ids.sort().to_list()
    assert tables["manifest"]["bytes"].sum() == summary["bytes"]


def reasons(tables):
    return dict(tables["rejected"].select("image_id", "reason").iter_rows())


def test_clean_images_come_through_whole(fake):
    tables, summary = run(fake)
    assert tables["train"].drop("^label_.*$").to_dicts() == [{
        "image_id": "clean-train", "patient_id": "10000000", "study_id": "50000000",
        "image_path": "files/p10/p10000000/s50000000/clean-train.jpg", "view": "PA",
        "findings": "The heart is normal.", "impression": "No acute disease.",
        "report": "The heart is normal. No acute disease.",
    }]  # fmt: skip
    assert summary["rejected"] == {} and summary["patients"] == dict.fromkeys(SPLITS, 1)
    assert "benchmark" not in tables
    manifest = tables["manifest"].row(0, named=True)
    assert manifest["bytes"] == (fake.root / manifest["image_path"]).stat().st_size
    metrics = json.loads(Path("metrics/prepare@fake.json").read_text())
    assert metrics["raw"] == metrics["kept"] == 3 and metrics["kept_train"] == 1 and metrics["rejected"] == 0


def test_every_other_row_has_its_reason(fake):
    fake.add("lateral", "10000003", "50000003", view="LATERAL")
    fake.add("no-view", "10000003", "50000003", view="")
    fake.add("ap", "10000003", "50000003", view="AP")
    fake.add("not-in-split-file", "10000003", "50000003")
    fake.split.pop()
    missing = fake.add("file-is-gone", "10000003", "50000003")
    del fake.images[missing]
    fake.add("no-report", "10000004", "50000004")
    del fake.reports[fake.report_path("10000004", "50000004")]
    fake.add("binary-report", "10000004", "50000005", report=b"\0\1")
    fake.add("only-impression", "10000004", "50000006", report=HEAD + " IMPRESSION:  Clear.\n")
    fake.add("only-findings", "10000004", "50000007", report=HEAD + " FINDINGS:  Clear.\n")
    fake.add("no-header", "10000004", "50000008", report="Wet read.\n \n Clear.")
    fake.add("latin1", "10000004", "50000009", report=BOTH.replace("normal", "39 °C").encode("latin-1"))
    fake.metadata.append({**fake.metadata[0], "subject_id": "10000004"})
    tables, summary = run(fake)
    assert reasons(tables) == {
        "lateral": "other_view",
        "no-view": "other_view",
        "not-in-split-file": "missing_split",
        "file-is-gone": "missing_image",
        "no-report": "missing_report",
        "binary-report": "unreadable_report",
        "only-impression": "missing_findings",
        "only-findings": "missing_impression",
        "no-header": "missing_text",
        "clean-train": "duplicate_id",
    }
    assert sorted(tables["train"]["image_id"]) == ["ap", "clean-train", "latin1"]
    details = dict(tables["rejected"].select("image_id", "detail").iter_rows())
    assert details["no-view"] == "view is blank"
    assert details["clean-train"] == "listed before; here with patient 10000004, study 50000000"
    assert details["file-is-gone"].endswith("p10000003/s50000003/file-is-gone.jpg")
    assert summary["notes"]["reports_not_utf8"] == 1
    assert summary["raw"] == len(fake.metadata) == 15


@pytest.mark.parametrize(
    "view",
    [
        "LL", "LAO", "RAO", "LPO", "RPO", "AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD", "SWIMMERS",
        "XTABLE LATERAL",
    ],
)  # fmt: skip
def test_every_other_view_of_mimic_cxr_is_left_out_and_no_candidate_of_a_benchmark(fake, view):
    for number in range(4):
        labels = {("atelectasis", "edema")[number % 2]: "1.0"}
        fake.add(f"frontal-{number}", f"1200000{number}", f"5200000{number}", **labels)
        fake.add(f"other-{number}", f"1200000{number}", f"5200000{number}", view=view)
    tables, _ = run(fake)
    rejected = tables["rejected"]
    assert reasons(tables) == {f"other-{number}": "other_view" for number in range(4)}
    assert set(rejected["detail"]) == {f"view is {view}"}
    tables, _ = run(fake, views=None, benchmark=benchmark(per_class=2))
    assert set(tables["benchmark"]["view"]) == {"PA"}


def test_either_section_will_do_or_the_text_that_stands_for_them(fake):
    fake.add("only-impression", "10000004", "50000006", report=HEAD + " IMPRESSION:  Clear.\n")
    fake.add("no-header", "10000004", "50000008", report="Wet read.\n \n Clear.")
    fake.add("by-hand", "10000004", "56579911", report="x" * 59 + "Seen between." + " " * 500)
    fake.add("nothing", "10000004", "50000009", report=HEAD + " INDICATION: Cough.\n")
    tables, _ = run(fake, sections="either", section_order="impression_first")
    assert reasons(tables) == {"nothing": "missing_text"}
    texts = {row["image_id"]: row for row in tables["train"].iter_rows(named=True)}
    assert texts["clean-train"]["report"] == "No acute disease. The heart is normal."
    assert texts["only-impression"]["findings"] is None
    assert texts["only-impression"]["report"] == "Clear."
    assert texts["no-header"]["report"] == "Clear."
    assert texts["by-hand"]["report"] == "Seen between."
    assert texts["by-hand"]["findings"] is texts["by-hand"]["impression"] is None


def crowd(fake, patients=30):
    """Patients with two studies each, of alternating classes."""
    for number in range(patients):
        for study in range(2):
            label = {("atelectasis", "edema")[number % 2]: "1.0", "no_finding": "0.0"}
            patient = f"11{number:06}"
            fake.add(f"{number}-{study}", patient, f"51{number:05}{study}", **label)


def test_the_result_does_not_depend_on_the_order_of_the_index(fake, tmp_path):
    crowd(fake)
    settings = {"split": "patient", "benchmark": benchmark(per_class=3), "split_fractions": (0.6, 0.2, 0.2)}
    first, summary = run(fake, **settings)
    for rows in (fake.metadata, fake.split, fake.chexpert):
        rows.reverse()
    again, same = run(fake, **settings)
    assert summary == same
    assert all(again[name].equals(first[name]) for name in first)
    other, _ = run(fake, seed=1, **settings)
    assert not other["train"].equals(first["train"])
    assert not other["benchmark"].equals(first["benchmark"])


def test_benchmark_patients_leave_the_training_set(fake):
    crowd(fake)
    tables, summary = run(fake, benchmark=benchmark(per_class=5))
    chosen = tables["benchmark"]
    assert summary["benchmark"]["classes"] == {"atelectasis": 5, "edema": 5}
    assert not set(chosen["patient_id"]) & set(tables["train"]["patient_id"])
    assert set(chosen.filter(benchmark_class="edema")["label_edema"]) == {1}
    rejected = tables["rejected"]
    assert set(rejected["reason"]) == {"benchmark_patient"}
    assert len(tables["train"]) == 61 - 2 * chosen["patient_id"].n_unique()

    tables, _ = run(fake, benchmark=benchmark(per_class=5, remove="images"))
    assert tables["benchmark"].equals(chosen), "what leaves does not change what is chosen"
    assert len(tables["train"]) == 61 - 10 and tables["rejected"].is_empty()

    tables, _ = run(fake)
    assert "benchmark" not in tables, "nothing of an earlier run stays"


@pytest.mark.parametrize(
    ("remove", "split", "message"),
    [
        ("patients", "train", "1 patients are in two splits: 11000000;"),
        ("patients", "test", "1 patients are in two splits: 11000000;"),
        ("images", "train", "1 benchmark images are still in training: 0-0"),
    ],
)
def test_a_benchmark_that_was_not_taken_out_is_never_written(fake, remove, split, message):
    """The last check before the tables are written, on tables of which one was tampered with."""
    crowd(fake)
    settings = fake.settings(benchmark=benchmark(remove=remove))
    one = {"image_id": "0-0" if remove == "images" else "0-1", "patient_id": "11000000"}
    clean = {name: pl.DataFrame({"image_id": [name], "patient_id": [name]}) for name in SPLITS}
    clean["benchmark"] = pl.DataFrame({"image_id": ["0-0"], "patient_id": ["11000000"]})
    check_patients(clean, settings)
    with pytest.raises(InputError, match=message):
        check_patients(clean | {split: pl.concat([clean[split], pl.DataFrame([one])])}, settings)


def test_the_digest_of_the_chosen_ids_is_that_of_the_list_left_with_the_results(fake):
    crowd(fake)
    _, summary = run(fake, benchmark=benchmark(per_class=3))
    chosen = {name: [] for name in (*SPLITS, "benchmark")}
    with open("results/subsets/fake.csv") as file:
        for row in csv.DictReader(file):
            chosen["benchmark" if row["benchmark_class"] else row["split"]].append(row["image_id"])
    digests = {
        name: hashlib.sha256("".join(f"{image}\n" for image in sorted(ids)).encode()).hexdigest()
        for name, ids in chosen.items()
    }
    assert all(chosen.values()) and digests == summary["image_ids_sha256"]


def test_too_few_images_for_the_benchmark(fake):
    crowd(fake, patients=3)
    with pytest.raises(InputError, match="atelectasis 4, edema 2; lower per_class to at most 2"):
        run(fake, benchmark=benchmark(per_class=5))


def test_a_missing_root_is_an_error(fake):
    with pytest.raises(InputError, match=r"datasets\.fake\.root: no folder nowhere; give the folder"):
        run(fake, root="nowhere")


def test_an_id_in_two_splits_is_an_error(fake):
    fake.split.append({**fake.split[0], "split": "test"})
    with pytest.raises(InputError, match="rows that contradict each other: clean-train; keep one row"):
        run(fake)


def test_a_patient_in_two_splits_is_an_error(fake):
    fake.add("again", "10000000", "50000009", split="test")
    with pytest.raises(InputError, match="patients are in two splits: 10000000; set `split: patient`"):
        run(fake)


def test_a_study_of_two_patients_is_an_error(fake):
    fake.add("again", "10000009", "50000000")
    with pytest.raises(
        InputError, match=r"metadata\.csv\.gz: 1 studies are listed under several patients: 50000000"
    ):
        run(fake)


@pytest.mark.parametrize("views", [("LL",), ("AP",)])
def test_nothing_left_is_an_error_with_the_reasons(fake, views):
    fake.add("lateral", "10000003", "50000003", view="LL")
    with pytest.raises(
        InputError, match=r"no image is left for .*validate, test; .* images rejected: other_view "
    ):
        run(fake, views=views, benchmark=benchmark())


def test_a_layout_without_a_split_of_its_own_is_an_error(fake, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"")
    (tmp_path / "metadata.csv").write_text(
        "patientid,finding,view,modality,folder,filename,clinical_notes\n1,COVID-19,PA,X-ray,images,a.png,Hazy.\n"
    )
    settings = covid_settings(tmp_path)
    with pytest.raises(InputError, match="has no official split for 1 images; set `split: patient`"):
        run_settings(settings.replace(split="official"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_passed_on_and_leaves_no_half_table(fake, monkeypatch, code):
    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("medunifier.runtime.files.os.replace", full)
    with pytest.raises(OSError, match=r"No space left|[Qq]uota exceeded") as caught:
        run(fake)
    assert caught.value.errno == code
    assert not list(Path("data/prepared").rglob("*.parquet*"))


def covid_settings(root):
    params = load_params(REPO / "workflow" / "presets" / "covid-chestxray.yaml")
    return params.datasets["covid-chestxray"].replace(root=str(root))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data set is not at {REAL}")
def test_the_real_covid_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables, summary = run_settings(covid_settings(REAL), name="covid-chestxray")
    with (REAL / "metadata.csv").open(encoding="utf-8", newline="") as file:
        index = list(csv.DictReader(file))
    images = {row["filename"]: row for row in reversed(index)}.values()  # the first row of each
    frontal = [row for row in images if row["view"] in ("PA", "AP", "AP Supine")]
    with_notes = [row for row in frontal if row["clinical_notes"].strip()]
    assert summary["raw"] == len(index)
    assert summary["rejected"]["duplicate_id"] == len(index) - len(images)
    assert summary["rejected"]["other_view"] == len(images) - len(frontal)
    assert summary["rejected"]["missing_text"] == len(frontal) - len(with_notes)
    kept = pl.concat([tables[split] for split in SPLITS])
    assert kept["report"].equals(kept["findings"].rename("report"))
    assert kept["impression"].null_count() == len(kept) == len(with_notes)
    assert (
        tables["test"].select("label_covid_19", "label_other_pneumonia", "label_no_finding").sum().row(0)[0]
        > 0
    )
