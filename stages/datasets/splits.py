"""Dividing patients among train, validate and test."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from stages.datasets.index_files import some
from stages.errors import InputError

SPLITS = ("train", "validate", "test")


def split_by_patient(patient_ids: pl.Series, fractions: Sequence[float], seed: int) -> pl.DataFrame:
    """`patient_id`, `split`: each patient in one split, `fractions` counted in patients, drawn by `seed`.

    The same whatever the order of `patient_ids`.
    """
    patients = patient_ids.unique().sort()
    order = np.random.default_rng(seed).permutation(len(patients))
    bounds = np.rint(np.cumsum(fractions) * len(patients)).astype(int)
    split_of_place = np.searchsorted(bounds, np.arange(len(patients)), side="right")
    split = np.empty(len(patients), np.int64)
    split[order] = np.minimum(split_of_place, len(SPLITS) - 1)
    return pl.DataFrame({"patient_id": patients, "split": [SPLITS[number] for number in split]})


def require_separate_patients(frame: pl.DataFrame, where: str) -> None:
    """InputError if a patient of `frame` (`patient_id`, `split`) is in two splits."""
    shared = frame.group_by("patient_id").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
    if len(shared):
        ids = shared["patient_id"].sort().to_list()
        raise InputError(
            f"{where}: {len(ids)} patients are in two splits: {some(ids)}; "
            "set `split: patient` for a split drawn by patient, or correct the split file"
        )
