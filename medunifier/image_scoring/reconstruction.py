"""Quality of images that are reconstructed from their codes: PSNR and SSIM, with the mean image as baseline."""

import numpy as np
import polars as pl
import torch

from medunifier.evaluation.items import BATCH, batches
from medunifier.evaluation.trained_model import TrainedModel
from medunifier.image_scoring.similarity import psnr, ssim
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means
from medunifier.runtime.errors import InputError
from medunifier.storage.image_shards import ImageStore
from medunifier.storage.tables import Schema

SCORES = Schema(
    "image scores",
    {"image_id": pl.String, "psnr": pl.Float64, "ssim": pl.Float64, "psnr_mean_image": pl.Float64},
    frozenset({"image_id", "psnr", "ssim", "psnr_mean_image"}),
)


def decode(trained: TrainedModel, coded: pl.DataFrame) -> np.ndarray:
    """Decode the codes in the columns `top` and `bottom` to grey images, float32 [n, H, W] in [0, 1]."""
    top, bottom = (
        torch.from_numpy(coded[level].to_numpy().astype(np.int64)).to(trained.device)
        for level in ("top", "bottom")
    )
    with torch.inference_mode():
        images = trained.model.decode_codes(top, bottom)
    return images.float().clamp(0, 1).mean(1).cpu().numpy()


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Round images in [0, 1] to uint8 in 0..255."""
    return (images * 255).round().astype(np.uint8)


def decode_images(trained: TrainedModel, coded: pl.DataFrame) -> np.ndarray:
    """Decode codes to grey images, uint8 [n, H, W], batch by batch."""
    parts = batches(len(coded), BATCH, "reconstruct images")
    return np.concatenate([to_uint8(decode(trained, coded[part])) for part in parts])


def reconstruct(
    trained: TrainedModel, store: ImageStore, coded: pl.DataFrame, mean: np.ndarray
) -> tuple[pl.DataFrame, np.ndarray]:
    """Reconstruct images from their codes and compare each with the real one.

    Args:
        trained: the model.
        store: the real images.
        coded: `image_id`, `top` and `bottom` of n images.
        mean: the mean training image, [H, W] in [0, 1].

    Returns:
        A table by the schema `SCORES`, and the reconstructed images, uint8 [n, H, W].

    Raises:
        InputError: if the model's images are of another size than the store's.
    """
    rows = store.rows(coded["image_id"].to_list())
    found: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": [], "psnr_mean_image": []}
    images = []
    for part in batches(len(coded), BATCH, "reconstruct images"):
        reconstructed = decode(trained, coded[part])
        real = store.read(rows[part]).astype(np.float32) / 255
        if real.shape != reconstructed.shape:
            raise InputError(
                f"{store.folder}: images are {real.shape[1:]}, the model generates {reconstructed.shape[1:]}; "
                f"set images.size to {reconstructed.shape[1]}"
            )
        found["psnr"].append(psnr(reconstructed, real))
        found["ssim"].append(ssim(reconstructed, real))
        found["psnr_mean_image"].append(psnr(real, mean))
        images.append(to_uint8(reconstructed))
    scores = {name: np.concatenate(values) for name, values in found.items()}
    return pl.DataFrame({"image_id": coded["image_id"], **scores}), np.concatenate(images)


def reconstruction_metrics(scores: pl.DataFrame, options: BootstrapOptions) -> dict[str, float | int]:
    """Return means of the scores with confidence intervals (95 %).

    psnr_reconstruction, ssim_reconstruction   of the reconstructed images (PSNR in dB)
    psnr_mean_image                            of the mean training image, the baseline
    psnr_gain                                  the difference of the two PSNR

    Args:
        scores: by the schema `SCORES`.
        options: of the bootstrap over images.
    """
    columns = scores.select(
        psnr_reconstruction="psnr",
        ssim_reconstruction="ssim",
        psnr_mean_image="psnr_mean_image",
        psnr_gain=pl.col("psnr") - pl.col("psnr_mean_image"),
    )
    metrics: dict[str, float | int] = {}
    for name, interval in zip(columns.columns, bootstrap_means(columns.to_numpy(), options), strict=True):
        metrics |= interval.flat(name)
    return metrics
