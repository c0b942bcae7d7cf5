"""The entries of docs/data_entries.md on fake copies: `--check`, `prepare` and `decode_images`."""

import polars as pl
import pytest

from medunifier.data.preparation.check import check_dataset
from medunifier.runtime.params import Params, load_params
from medunifier.storage.image_shards import ImageStore
from medunifier.tracking import LocalRun
from stages.decode_images import decode_images
from tests.stages.test_prepare import REPO, run_settings
from tests.support import entries
from tests.support.fake_chexpert_plus import FakeChexpertPlus
from tests.support.fake_covidx import FakeCovidx
from tests.support.fake_padchest import FakePadchest, FakePadchestGr, sentence
from tests.support.fake_rexgradient import FakeRexgradient
from tests.support.fake_vindr import FakeVindr

PATIENTS = 20


def chexpert_plus(root):
    fake = FakeChexpertPlus(root)
    for patient in range(PATIENTS):
        split = "valid" if patient % 5 == 0 else "train"
        fake.add(patient, split=split, impression=f"Impression {patient}.")
        fake.add(patient, split=split, view=2, side="lateral", ap="", impression=f"Impression {patient}.")
    fake.add(99, impression="")
    return fake, {"other_view": PATIENTS, "missing_text": 1}


def rexgradient(root):
    fake = FakeRexgradient(root)
    for number in range(PATIENTS):
        fake.add(number, ("train", "train", "valid", "test")[number % 4])
    fake.add(99, Findings=None)
    return fake, {"other_view": PATIENTS + 1, "missing_findings": 1}


def padchest(root):
    fake = FakePadchest(root)
    for number in range(PATIENTS):
        fake.add(number, folder=number % 3)
        fake.add(number, projection="L")
    fake.add(98, labels="['exclude', 'normal']")
    fake.add(99, report="")
    return fake, {"other_view": PATIENTS, "excluded": 1, "missing_text": 1}


def padchest_gr(root):
    fake = FakePadchestGr(root)
    for number in range(PATIENTS):
        findings = [sentence(f"Nodule {number}.", "nodule")] if number % 2 else None
        fake.add(number, ("train", "train", "validation", "test")[number % 4], findings=findings)
    return fake, {}


def vindr_cxr(root):
    fake = FakeVindr(root)
    for number in range(PATIENTS):
        fake.add(number, "test" if number % 5 == 0 else "train")
    return fake, {}


def covidx_cxr4(root):
    fake = FakeCovidx(root, {})
    for number in range(PATIENTS):
        kind = ("negative", "positive")[number % 2]
        fake.add_cxr4(
            f"{number} {number}.png {kind} midrc",
            f"{number}.png",
            ("train", "train", "val", "test")[number % 4],
        )
    fake.write = fake.write_cxr4
    return fake, {}


FAKES = {
    "chexpert-plus": chexpert_plus,
    "rexgradient": rexgradient,
    "padchest": padchest,
    "padchest-gr": padchest_gr,
    "vindr-cxr": vindr_cxr,
    "covidx-cxr4": covidx_cxr4,
}


def test_every_entry_of_the_page_is_run():
    assert set(entries.entries()) == set(FAKES)


def test_the_entries_stand_in_params_as_they_are():
    params = load_params(REPO / "workflow/presets/iu-xray.yaml").model_dump()
    Params.model_validate(params | {"datasets": params["datasets"] | entries.entries()})


@pytest.mark.parametrize("name", FAKES)
def test_an_entry_goes_through_check_prepare_and_decode(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake, rejected = FAKES[name](tmp_path / name)
    fake.write()
    settings = entries.entry(name, fake.root)
    lines = list(check_dataset(name, settings, 0))
    assert lines[-1] == "  no problem found; nothing was written"
    assert any(line.startswith("  decoded  12 of 12") for line in lines)
    tables, summary = run_settings(settings, name=name)
    assert summary["rejected"] == rejected
    assert sum(summary["kept"].values()) == PATIENTS and min(summary["kept"].values()) > 0
    kept = pl.concat([tables[split] for split in ("train", "validate", "test")])
    assert kept["report"].null_count() == (PATIENTS if settings.sections == "none" else 0)
    params = load_params(REPO / "params.yaml").replace(datasets={name: settings})
    decode_images(params, LocalRun(f"decode_images@{name}", "metrics"), name)
    store = ImageStore(f"data/images/{name}")
    assert len(store) == PATIENTS
    pixels = store.read(store.rows(kept["image_id"].to_list()))
    assert pixels.max(axis=(1, 2)).min() > 100, "no image comes out black, with 12 of 16 bits either"


def test_a_missing_data_set_says_where_to_get_it(tmp_path):
    for name in FAKES:
        with pytest.raises(Exception, match=r"no such folder\. Get the data set: https"):
            list(check_dataset(name, entries.entry(name, tmp_path / "nowhere"), 0))
