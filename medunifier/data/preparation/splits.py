"""Split patients into train, validate and test."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.data.index_files import check_values, one_row_each, read_index, some
from medunifier.runtime.errors import InputError

SPLITS = ("train", "validate", "test")


def split_by_patient(patient_ids: pl.Series, fractions: Sequence[float], seed: int) -> pl.DataFrame:
    """Assign each patient to one split at random.

    Args:
        patient_ids: ids of patients, in any order and repeated.
        fractions: of the patients, for train, validate and test.
        seed: of the permutation of the sorted ids.

    Returns:
        Columns `patient_id`, `split`; independent of the order of `patient_ids`.
    """
    patients = patient_ids.unique().sort()
    order = np.random.default_rng(seed).permutation(len(patients))
    bounds = np.rint(np.cumsum(fractions) * len(patients)).astype(int)
    split_of_rank = np.searchsorted(bounds, np.arange(len(patients)), side="right")
    split = np.empty(len(patients), np.int64)
    split[order] = np.minimum(split_of_rank, len(SPLITS) - 1)
    return pl.DataFrame({"patient_id": patients, "split": [SPLITS[number] for number in split]})


def split_in_two_steps(patient_ids: pl.Series, fractions: Sequence[float], seed: int) -> pl.DataFrame:
    """Assign each patient to one split by the recipe of GLoRIA (Huang et al. 2021) and its successors.

    The recipe is scikit-learn's `train_test_split` of the sorted ids, unstratified: first train from the rest, then
    test from validate, both with `seed` (in the published code: 0). Gives the same split as scikit-learn, whose
    import takes a second: both use numpy's legacy generator, whose stream is frozen.

    Returns:
        Columns `patient_id`, `split`.
    """
    patients = patient_ids.unique().sort()
    rest_share = round(fractions[1] + fractions[2], 9)  # 0.1 + 0.2 is a little above 0.3, which rounds up
    train, rest = _train_test_split(np.arange(len(patients)), rest_share, seed)
    test, validate = _train_test_split(rest, fractions[1] / rest_share, seed)
    split = np.empty(len(patients), object)
    for name, indices in zip(SPLITS, (train, validate, test), strict=True):
        split[indices] = name
    return pl.DataFrame({"patient_id": patients, "split": pl.Series(split, dtype=pl.String)})


def _train_test_split(items: np.ndarray, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return train and test items as scikit-learn's function of this name."""
    order = items[np.random.RandomState(seed).permutation(len(items))]
    test = math.ceil(test_share * len(items))
    return order[test:], order[:test]


def read_splits(path: Path, id_column: str) -> pl.DataFrame:
    """Return `image_id`, `split` of a CSV file with the ids in `id_column`, without rows with a blank split.

    Raises:
        InputError: A split is not train, validate or test, or an id has two splits.
    """
    frame = read_index(path, [id_column, "split"], filled=[id_column], ids=[id_column]).drop_nulls()
    check_values(frame, "split", pl.col("split").is_in(SPLITS), f"one of {', '.join(SPLITS)}", path)
    return one_row_each(frame, id_column, path).rename({id_column: "image_id"})


def require_separate_patients(frame: pl.DataFrame, where: str) -> None:
    """Check that no patient of `frame` (`patient_id`, `split`) is in two splits.

    Args:
        frame: the assignment.
        where: the file that the message names.

    Raises:
        InputError: Some patients are in two splits.
    """
    shared = frame.group_by("patient_id").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
    if len(shared):
        ids = shared["patient_id"].sort().to_list()
        raise InputError(
            f"{where}: {len(ids)} patients are in two splits: {some(ids)}; "
            "set `split: patient` for a random split by patient, or correct the split file"
        )
