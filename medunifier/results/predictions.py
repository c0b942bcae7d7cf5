"""Tables of what models predicted for test images: results/finetune, results/zero_shot and results/reports."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from medunifier.storage.tables import Schema

_REPORT_COLUMNS = (
    "image_id",
    "study_id",
    "patient_id",
    "reference",
    "prediction",
    "constant",  # constant baseline
    "nearest",  # nearest-neighbour baseline
)
REPORTS = Schema("predictions", dict.fromkeys(_REPORT_COLUMNS, pl.String), frozenset(_REPORT_COLUMNS))


def classifier_table(
    ids: Sequence[str],
    patients: Sequence[str],
    target: np.ndarray,
    names: Sequence[str],
    seed: int,
    probabilities: Mapping[str, np.ndarray],
) -> pl.DataFrame:
    """Build the rows of one seed: each image with its class or its labels, and the probabilities of classifiers.

    Args:
        ids: n images.
        patients: Their patients.
        target: Class numbers, int64 [n]; or, of labels that do not exclude each other, 1, 0, or -1 where the label is
            ignored (null in the table), int64 [n, L].
        names: Names of the C classes or L labels.
        seed: Seed of the training part or of the prompts.
        probabilities: [n, C] or [n, L] by the prefix of their columns, such as `p`.
    """
    columns: dict[str, object] = {
        "image_id": list(ids),
        "patient_id": list(patients),
        "seed": [seed] * len(ids),
    }
    if target.ndim == 2:
        for i, name in enumerate(names):
            columns[f"label_{name}"] = pl.Series(target[:, i], dtype=pl.Int8).replace(-1, None)
    else:
        columns["class"] = [names[number] for number in target]
    for prefix, scores in probabilities.items():
        columns |= {f"{prefix}_{name}": scores[:, i].astype(np.float64) for i, name in enumerate(names)}
    return pl.DataFrame(columns)


def zero_shot_table(
    items: pl.DataFrame,
    classes: Sequence[str],
    seeds: Sequence[int],
    found: Mapping[str, Sequence[np.ndarray]],
) -> pl.DataFrame:
    """Build the rows of all seeds: each image with its class, the predicted class, and the shares of all classes.

    Args:
        items: Images, with `class`.
        classes: Names of the C classes.
        seeds: Seeds of the prompts.
        found: Shares [n, C] under each seed, by the prefix of their columns.
    """
    frames = []
    for number, seed in enumerate(seeds):
        frame = items.select("image_id", "patient_id", pl.lit(seed).alias("seed"), "class")
        for prefix, by_seed in found.items():
            predicted = [classes[i] for i in by_seed[number].argmax(1)]
            columns = [
                pl.Series(f"{prefix}share_{name}", by_seed[number][:, i].astype(np.float64))
                for i, name in enumerate(classes)
            ]
            frame = frame.with_columns(pl.Series(f"{prefix}predicted", predicted), *columns)
        frames.append(frame)
    return pl.concat(frames)


def report_table(test: pl.DataFrame, systems: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """Build the table of reports, by `REPORTS`: reference, generated report and baselines of each image.

    Args:
        test: Rows of the prepared table.
        systems: Reports by the prefix of their metrics; `` are the generated ones.
    """
    return test.select("image_id", "study_id", "patient_id", reference="report").with_columns(
        pl.Series(prefix.rstrip("_") or "prediction", texts, pl.String) for prefix, texts in systems.items()
    )
