"""How like real images drawn ones are, and how unlike each other: distances, coverage, diversity, memorisation."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import polars as pl

from medunifier.evaluation.items import BATCH, batches
from medunifier.image_scoring.set_distances import kernel_distance, nearest, precision_recall
from medunifier.image_scoring.similarity import frechet_distance, ms_ssim
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means
from medunifier.storage.image_shards import ImageStore
from medunifier.storage.tables import Schema

Metrics = dict[str, float | int]
Images = Callable[[], Iterable[np.ndarray]]  # gives uint8 batches [k, H, W], anew at every call
Features = Callable[[Iterable[np.ndarray]], np.ndarray]  # image batches -> float [n, D]

LOW = 0.05  # the quantile of validation images' distances below which an image is suspiciously near
NEAREST = Schema(
    "nearest training images",
    {
        "set": pl.String,  # validation, reconstruction, or a set of generate_images
        "image_id": pl.String,
        "nearest_id": pl.String,  # the training image
        "distance": pl.Float64,  # root mean square of grey values, 0 to 255, on a 32 x 32 grid
    },
    frozenset({"set", "image_id", "nearest_id", "distance"}),
)


def distances(names: Mapping[str, str], sets: Mapping[str, np.ndarray], seed: int) -> Metrics:
    """Distances of each set of features to the set `reference`.

    Args:
        names: of the `frechet` and the `kernel` distance, and what follows `precision_` and `recall_` (`space`).
        sets: features, [n, D], of the training images (`reference`) and of any others.
    Returns: `FRECHET_SET`, `KERNEL_SET`, `precision_SPACE_SET`, `recall_SPACE_SET`, and `FRECHET_SET_n`.
    """
    reference = sets["reference"]
    metrics: Metrics = {f"{names['frechet']}_reference_n": len(reference)}
    for name, features in sets.items():
        if name == "reference":
            continue
        metrics[f"{names['frechet']}_{name}"] = frechet_distance(features, reference)
        metrics[f"{names['frechet']}_{name}_n"] = len(features)
        metrics[f"{names['kernel']}_{name}"] = kernel_distance(features, reference, seed)
        if min(len(features), len(reference)) >= 4:
            precision, recall = precision_recall(features, reference)
            metrics[f"precision_{names['space']}_{name}"] = precision
            metrics[f"recall_{names['space']}_{name}"] = recall
    return metrics


def diversity(drawn: np.ndarray, rows: np.ndarray, real: np.ndarray, options: BootstrapOptions) -> Metrics:
    """MS-SSIM between samples of one prompt, each with the next (`ms_ssim_prompt`, intervals over prompts), and
    between as many pairs of different real images (`ms_ssim_real`). 1: copies of each other.

    Args:
        drawn: uint8 [n, H, W]. rows: which prompt each is of, int [n], samples of a prompt in a row.
        real: uint8 [m, H, W].
    """
    pairs = np.flatnonzero(rows[1:] == rows[:-1])
    if not len(pairs):
        return {}
    scores = ms_ssim(drawn[pairs] / 255, drawn[pairs + 1] / 255)
    (interval,) = bootstrap_means(scores[:, None], options.with_clusters(rows[pairs].tolist()))
    metrics: Metrics = interval.flat("ms_ssim_prompt")
    if len(real) > 1:
        first = np.arange(min(len(pairs), len(real) - 1))
        (interval,) = bootstrap_means(ms_ssim(real[first] / 255, real[first + 1] / 255)[:, None], options)
        metrics |= interval.flat("ms_ssim_real")
    return metrics


def memorisation(
    sets: Mapping[str, tuple[list[str], np.ndarray]], train: tuple[list[str], np.ndarray]
) -> tuple[pl.DataFrame, Metrics]:
    """The training image nearest to each image of `sets`, and whether drawn images are nearer than real ones.

    `nearest_SET`: the median distance to the nearest training image, in grey values (0 to 255), on a 32 x 32 grid.
    `nearest_SET_suspicious`: how many of the set, in percent, are nearer than all but 5 % of the validation images
    are. About 5 is expected of new images; a model that copies has many more.

    Args:
        sets: name -> ids and thumbnails [n, D], `validation` among them. train: the same of the training images.
    Returns: a table by `NEAREST`, and the metrics.
    """
    ids, candidates = train
    tables, distance = [], {}
    for name, (own, thumbnails) in sets.items():
        found, who = nearest(thumbnails, (candidates[i : i + 4096] for i in range(0, len(candidates), 4096)))
        distance[name] = 255 * found.astype(np.float64)
        columns = {"set": [name] * len(own), "image_id": own, "nearest_id": [ids[i] for i in who]}
        tables.append(pl.DataFrame(columns | {"distance": distance[name]}, schema=dict(NEAREST.columns)))
    limit = np.quantile(distance["validation"], LOW)
    metrics: Metrics = {}
    for name, values in distance.items():
        metrics[f"nearest_{name}"] = float(np.median(values))
        if name != "validation":
            metrics[f"nearest_{name}_suspicious"] = 100 * float((values < limit).mean())
    return pl.concat(tables), metrics


def stored(store: ImageStore, ids: Iterable[str] | None = None) -> Iterable[np.ndarray]:
    """Stored images, all or those of `ids`, in uint8 batches [k, H, W]."""
    rows = np.arange(len(store)) if ids is None else store.rows(ids)
    for part in batches(len(rows), BATCH, "read images"):
        yield store.read(rows[part])
