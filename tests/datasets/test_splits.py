import polars as pl
import pytest

from stages.datasets.splits import require_separate_patients, split_by_patient
from stages.errors import InputError


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
