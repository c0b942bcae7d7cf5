"""Realism of sets of images: distances to real ones, diversity, copies of training images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from medunifier.image_scoring.set_distances import kernel_distance, nearest, precision_recall
from medunifier.image_scoring.similarity import frechet_distance, ms_ssim
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means
from medunifier.storage.tables import Schema

Metrics = dict[str, float | int]

LOW = 0.05  # quantile of validation images' distances; a smaller distance is suspicious
CANDIDATES = 4096  # training images compared at once
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


@dataclass(frozen=True)
class FeatureSpace:
    """Names of the metrics in a space of features.

    Attributes:
        frechet: of the Frechet distance.
        kernel: of the kernel distance.
        suffix: what follows `precision_` and `recall_`.
    """

    frechet: str
    kernel: str
    suffix: str


VIT = FeatureSpace("fd_vit", "kd_vit", "vit")
INCEPTION = FeatureSpace("fid", "kid", "inception")


def distances(space: FeatureSpace, sets: Mapping[str, np.ndarray], seed: int) -> Metrics:
    """Measure distances of each set of features to the set `reference`.

    Args:
        space: names of the metrics.
        sets: features, [n, D], of the training images (`reference`) and of any others.
        seed: of the kernel distance's subsets.

    Returns:
        `FRECHET_SET`, `FRECHET_SET_n`, `KERNEL_SET`, `precision_SPACE_SET`, `recall_SPACE_SET`.
    """
    reference = sets["reference"]
    metrics: Metrics = {f"{space.frechet}_reference_n": len(reference)}
    for name, features in sets.items():
        if name == "reference":
            continue
        metrics[f"{space.frechet}_{name}"] = frechet_distance(features, reference)
        metrics[f"{space.frechet}_{name}_n"] = len(features)
        metrics[f"{space.kernel}_{name}"] = kernel_distance(features, reference, seed)
        if min(len(features), len(reference)) >= 4:
            precision, recall = precision_recall(features, reference)
            metrics[f"precision_{space.suffix}_{name}"] = precision
            metrics[f"recall_{space.suffix}_{name}"] = recall
    return metrics


def diversity(
    generated: np.ndarray, rows: np.ndarray, real: np.ndarray, options: BootstrapOptions
) -> Metrics:
    """Measure the MS-SSIM between samples of one prompt, and between different real images; 1: copies.

    ms_ssim_prompt   each sample with the next one of the same prompt; interval over prompts
    ms_ssim_real     as many pairs of real images

    Args:
        generated: uint8 [n, H, W], samples of a prompt in a row.
        rows: the prompt of each, int [n].
        real: uint8 [m, H, W].
        options: of the bootstrap over pairs.
    """
    pairs = np.flatnonzero(rows[1:] == rows[:-1])
    if not len(pairs):
        return {}
    scores = ms_ssim(generated[pairs] / 255, generated[pairs + 1] / 255)
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
    """Find the training image nearest to each image, and whether generated images are nearer than real ones.

    nearest_SET              median distance to the nearest training image, in grey values (0 to 255), on a
                             32 x 32 grid
    nearest_SET_suspicious   percent of the set that are nearer than all but 5 % of the validation images: about 5
                             for new images, many more for a model that copies

    Args:
        sets: ids and thumbnails [n, D] by the name of the set, `validation` among them.
        train: ids and thumbnails of the training images.

    Returns:
        A table by the schema `NEAREST`, and the metrics.
    """
    ids, candidates = train
    tables, distance = [], {}
    for name, (own, images) in sets.items():
        parts = (candidates[i : i + CANDIDATES] for i in range(0, len(candidates), CANDIDATES))
        found, numbers = nearest(images, parts)
        distance[name] = 255 * found.astype(np.float64)
        columns = {"set": [name] * len(own), "image_id": own, "nearest_id": [ids[i] for i in numbers]}
        tables.append(pl.DataFrame(columns | {"distance": distance[name]}, schema=dict(NEAREST.columns)))
    limit = np.quantile(distance["validation"], LOW)
    metrics: Metrics = {}
    for name, values in distance.items():
        metrics[f"nearest_{name}"] = float(np.median(values))
        if name != "validation":
            metrics[f"nearest_{name}_suspicious"] = 100 * float((values < limit).mean())
    return pl.concat(tables), metrics
