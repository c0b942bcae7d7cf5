import polars as pl
import pytest

from medunifier.data.preparation.splits import (
    read_split_lists,
    require_separate_patients,
    split_by_patient,
    split_in_two_steps,
)
from medunifier.runtime.errors import InputError
from tests.support.fake_files import put


def test_fractions_are_counted_in_patients_whatever_the_order_of_the_rows():
    patients = pl.Series("patient_id", [f"p{n % 50}" for n in range(500)])
    split = split_by_patient(patients, (0.7, 0.1, 0.2), seed=3)
    assert split["split"].value_counts().sort("split").rows() == [
        ("test", 10),
        ("train", 35),
        ("validate", 5),
    ]
    assert split["patient_id"].n_unique() == 50
    assert split.equals(split_by_patient(patients.shuffle(1), (0.7, 0.1, 0.2), seed=3))
    assert not split.equals(split_by_patient(patients, (0.7, 0.1, 0.2), seed=4))


@pytest.mark.parametrize("patients", range(1, 12))
def test_each_patient_has_a_split_however_few_there_are(patients):
    series = pl.Series("patient_id", [f"p{n}" for n in range(patients)])
    split = split_by_patient(series, (0.8, 0.1, 0.1), seed=0)
    assert sorted(split["patient_id"]) == sorted(series)
    assert set(split["split"]) <= {"train", "validate", "test"}


def test_a_patient_in_two_splits_is_named():
    frame = pl.DataFrame({"patient_id": ["a", "a", "b", "b"], "split": ["train", "train", "test", "train"]})
    with pytest.raises(InputError, match="1 patients are in two splits: b; set `split: patient`"):
        require_separate_patients(frame, "here")
    require_separate_patients(frame.head(3), "here")


@pytest.mark.parametrize(
    ("patients", "fractions"),
    [(26684, (0.7, 0.15, 0.15)), (12047, (0.7, 0.15, 0.15)), (30130, (0.8, 0.2, 0.0)), (10, (0.7, 0.1, 0.2))],
)
def test_two_steps_are_scikit_learn_s(patients, fractions):
    """Against the peers' recipe itself, at the real sizes of RSNA, SIIM-ACR and COVIDx."""
    from sklearn.model_selection import train_test_split

    ids = [f"{number * 7919 % 100003:06}" for number in range(patients)]
    train, rest = train_test_split(
        sorted(ids), test_size=round(fractions[1] + fractions[2], 9), random_state=0
    )
    expected = {"train": set(train), "validate": set(rest), "test": set()}
    if fractions[2]:
        share = fractions[1] / (fractions[1] + fractions[2])
        test, validate = train_test_split(rest, test_size=share, random_state=0)
        expected |= {"test": set(test), "validate": set(validate)}
    split = split_in_two_steps(pl.Series("patient_id", ids), fractions, seed=0)
    assert {name: set(split.filter(split=name)["patient_id"]) for name in expected} == expected


def test_rsna_s_real_size_gives_the_published_sizes():
    ids = pl.Series("patient_id", [f"{number:05}" for number in range(26684)])
    counts = dict(split_in_two_steps(ids, (0.7, 0.15, 0.15), 0)["split"].value_counts().iter_rows())
    assert counts == {"train": 18678, "validate": 4003, "test": 4003}


def lists(folder, **files):
    for name, ids in files.items():
        put(folder / f"{name}.txt", "\n".join(ids) + "\n")
    return folder


IDS = pl.Series([f"0000000{patient}_000.png" for patient in range(8)])


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda name: name, id="as the index has them"),
        pytest.param(lambda name: name.removesuffix(".png"), id="BenchX"),
        pytest.param(lambda name: f"images_001/images/{name} 0 1 -1 0", id="with folder and labels"),
        pytest.param(lambda name: f"images/{name.replace('.png', '.jpg')}", id="another copy"),
    ],
)
def test_lists_of_others_are_matched_by_image(tmp_path, form):
    names = [form(name) for name in IDS]
    folder = lists(tmp_path, train=names[:5], val=[*names[5:6], form("00000099_000.png")], test=names[6:])
    lists(tmp_path, train_1=names[:1], train_10=names[:2])
    found, notes = read_split_lists(folder, IDS)
    splits = ["train"] * 5 + ["validate"] + ["test"] * 2
    assert found.rows() == list(zip(IDS, splits, strict=True))
    assert notes == {"listed_ids_without_image": 1, "other_lists": 2}


def test_the_official_lists_of_nih_leave_the_validation_to_us(tmp_path):
    folder = lists(tmp_path, train_val_list=IDS[:6], test_list=IDS[6:])
    found, _ = read_split_lists(folder, IDS)
    assert found["split"].to_list() == ["train_validate"] * 6 + ["test"] * 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train": IDS[:5], "test": IDS[5:]},
            r"expected train\.txt, val\.txt and test\.txt, or .*found test\.txt, train\.txt",
        ),
        ({}, "found no text file"),
        ({"train": IDS[:5], "val": IDS[4:6], "test": IDS[6:]}, r"1 ids are in two lists: 00000004_000\.png"),
        (
            {"train": [*IDS[:5], IDS[0]], "val": IDS[5:6], "test": IDS[6:]},
            r"train\.txt: 1 ids are listed twice",
        ),
        (
            {"train": ["a"], "val": ["b"], "test": ["c"]},
            r"none of its 3 ids is one of the data set: listed 'c'",
        ),
    ],
)
def test_lists_of_others_that_cannot_be_used(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        read_split_lists(lists(tmp_path, **files), IDS)


def test_a_name_in_two_folders_is_told_apart(tmp_path):
    """Without their folders the ids would be one: the comparison that drops folders is not tried."""
    ids = pl.Series(["a/1.png", "b/1.png", "a/2.png"])
    folder = lists(tmp_path, train=["a/1"], val=["b/1"], test=["a/2"])
    assert read_split_lists(folder, ids)[0].rows() == [
        ("a/1.png", "train"), ("b/1.png", "validate"), ("a/2.png", "test")
    ]  # fmt: skip
