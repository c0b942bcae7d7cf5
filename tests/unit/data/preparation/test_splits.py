import polars as pl
import pytest

from medunifier.data.preparation.splits import require_separate_patients, split_by_patient, split_in_two_steps
from medunifier.runtime.errors import InputError


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
