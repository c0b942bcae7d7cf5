"""Split patients into train, validate and test."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.data.index_files import check_values, one_row_each, read_index, read_lines, some
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SPLITS = ("train", "validate", "test")
TRAIN_VALIDATE = "train_validate"  # a published list of both, divided by patient here
# Name of a published list, without `_list` -> its split.
LISTS = {
    "train": "train", "validate": "validate", "val": "validate", "valid": "validate", "validation": "validate",
    "test": "test", "train_val": TRAIN_VALIDATE, "trainval": TRAIN_VALIDATE,
}  # fmt: skip
# How the ids of lists and of the index are compared: as they are, without suffix, without folder, without both.
_SUFFIX, _FOLDER = r"\.(?i:png|jpe?g|dcm|dicom|tiff?)$", r"^.*/"
ID_FORMS: tuple[Callable[[pl.Expr], pl.Expr], ...] = (
    lambda name: name,
    lambda name: name.str.replace(_SUFFIX, ""),
    lambda name: name.str.replace(_FOLDER, ""),
    lambda name: name.str.replace(_FOLDER, "").str.replace(_SUFFIX, ""),
)


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


def as_split(word: pl.Expr) -> pl.Expr:
    """Return the split that a word stands for, such as `val` for validate; null for any other word."""
    words = {name: split for name, split in LISTS.items() if split in SPLITS}
    return (
        word.str.strip_chars().str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.String)
    )


def keep_official(split: pl.Series, settings: Dataset) -> pl.Series:
    """Return the official split that counts: with `two_step` only its test images, for the others are split anew."""
    if settings.split != "two_step":
        return split
    return pl.select(split=pl.when(split == "test").then(pl.lit("test"))).to_series()


def read_id_list(path: Path) -> list[str]:
    """Return the ids of a text file, one a line; labels behind them (`00000003_000.png 0 1 0`) do not count.

    Raises:
        InputError: The file is missing, empty or no text, or an id is listed twice.
    """
    ids = [re.sub(r"(?:\s+-?[01])+$", "", line) for _, line in read_lines(path)]
    if repeated := [name for name, count in Counter(ids).items() if count > 1]:
        raise InputError(f"{path}: {len(repeated)} ids are listed twice: {some(repeated)}")
    return ids


def read_split_lists(folder: Path, image_ids: pl.Series) -> tuple[pl.DataFrame, dict[str, int]]:
    """Read the lists of others: a folder with a text file of ids for each split, as BenchX and NIH publish them.

    Known names are those of LISTS, such as train.txt, val.txt and test.txt, or train_val_list.txt and test_list.txt.
    Ids are image ids, or the same without folder or suffix.

    Args:
        folder: the folder; text files of other names are counted and not read.
        image_ids: ids of the data set.

    Returns:
        Columns `image_id`, `split` of each listed image of the data set, with `train_validate` where a list leaves it
        to us to divide both; counts of what was not used.

    Raises:
        InputError: A split has no list, an id is in two lists, or no id is one of the data set.
    """
    paths = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
    lists = {
        path: split
        for path in paths
        if (split := LISTS.get(path.stem.lower().removesuffix("_list"))) is not None
    }
    names = sorted(lists.values())
    if names not in (sorted(SPLITS), ["test", TRAIN_VALIDATE]):
        found = ", ".join(path.name for path in paths) or "no text file"
        raise InputError(
            f"{folder}: expected train.txt, val.txt and test.txt, or train_val_list.txt and test_list.txt, with one id a "
            f"line; found {found}"
        )
    rows = [(name, split) for path, split in lists.items() for name in read_id_list(path)]
    listed = pl.DataFrame(rows, ["listed", "split"], orient="row")
    if both := listed.filter(pl.col("listed").is_duplicated())["listed"].unique().sort().to_list():
        raise InputError(f"{folder}: {len(both)} ids are in two lists: {some(both)}")
    matched = _match_ids(listed, image_ids, folder)
    notes = {
        "listed_ids_without_image": len(listed) - len(matched),
        "other_lists": len(paths) - len(lists),
    }
    return matched, notes


def _match_ids(listed: pl.DataFrame, image_ids: pl.Series, folder: Path) -> pl.DataFrame:
    """Return `image_id`, `split` for listed ids, read in the one way of ID_FORMS that finds most of the data set."""
    own = pl.DataFrame({"image_id": image_ids.unique(maintain_order=True)})
    best = pl.DataFrame()
    for form in ID_FORMS:
        left = own.with_columns(form(pl.col("image_id")).alias("key"))
        right = listed.select("split", form(pl.col("listed")).alias("key"))
        if left["key"].is_duplicated().any() or right["key"].is_duplicated().any():
            continue  # two images would be one
        found = left.join(right, on="key", maintain_order="left").select("image_id", "split")
        best = found if len(found) > len(best) else best
    if best.is_empty():
        raise InputError(
            f"{folder}: none of its {len(listed)} ids is one of the data set: listed {listed['listed'][0]!r}, in the "
            f"index {image_ids[0]!r}"
        )
    return best


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
