"""Similarity of images: PSNR, SSIM, MS-SSIM, Frechet distance between sets of features, Inception features."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from medunifier.runtime.errors import InputError
from medunifier.runtime.params import NO_FILE
from medunifier.storage.weights import read_weights

_LEAST_ERROR = 1e-10  # mean squared error below which images count as equal: PSNR stops at 100 dB
_SSIM = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, finest scale first


def psnr(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute the peak signal-to-noise ratio in dB of each image, at most 100.

    Args:
        images: float [N, H, W] in [0, 1].
        truth: the same, or one [H, W] for all (or the other way round).
    """
    difference = np.asarray(images, np.float64) - truth
    error = (difference**2).mean((-2, -1))
    return -10 * np.log10(np.maximum(error, _LEAST_ERROR))


def ssim(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute the structural similarity of each image, with the Gaussian window of Wang et al. 2004.

    Args:
        images: float [N, H, W] in [0, 1].
        truth: float [N, H, W] in [0, 1].
    """
    return np.array([structural_similarity(a, b, **_SSIM) for a, b in zip(images, truth, strict=True)])


def ms_ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute the multi-scale structural similarity of each pair (Wang, Simoncelli and Bovik 2003, Eq. 7).

    Contrast and structure count at five scales, each half as fine as the one before (means of 2 x 2), luminance
    at the coarsest only. Negative terms count as 0. Between samples of one prompt it measures diversity (Odena et
    al. 2017): 1 for copies, lower for images that differ.

    Args:
        images: float [N, H, W] in [0, 1], H and W multiples of 16 and at least 176.
        others: the same.
    """
    a, b = (np.asarray(side, np.float64) for side in (images, others))
    product = np.ones(len(a))
    for scale, weight in enumerate(_SCALE_WEIGHTS, start=1):
        # a huge constant K1 turns the comparison of luminances into 1
        constant = 0.01 if scale == len(_SCALE_WEIGHTS) else 1e6
        terms = [structural_similarity(x, y, K1=constant, **_SSIM) for x, y in zip(a, b, strict=True)]
        product *= np.maximum(terms, 0.0) ** weight
        if scale < len(_SCALE_WEIGHTS):
            a, b = _halved(a), _halved(b)
    return product


def _halved(images: np.ndarray) -> np.ndarray:
    """Average 2 x 2 pixels, [n, H, W] -> [n, H / 2, W / 2]."""
    n, height, width = images.shape
    return images.reshape(n, height // 2, 2, width // 2, 2).mean((2, 4))


def thumbnails(images: np.ndarray, side: int = 32) -> np.ndarray:
    """Return mean grey values of a `side` x `side` grid, float32 [k, side * side] in [0, 1], row by row.

    Args:
        images: uint8 [k, H, W], H and W multiples of `side`.
        side: height and width of the grid.

    Raises:
        ValueError: if the images do not divide into the grid.
    """
    k, height, width = images.shape
    if height % side or width % side:
        raise ValueError(f"images of {height} x {width} do not divide into {side} x {side} parts")
    parts = images.reshape(k, side, height // side, side, width // side)
    return parts.mean((2, 4), dtype=np.float32).reshape(k, -1) / 255


def mean_image(batches: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean, float64 [H, W] in [0, 1], of uint8 images that come in batches [k, H, W].

    Raises:
        ValueError: if there are no images.
    """
    total, count = np.zeros(()), 0
    for batch in batches:
        total = total + batch.sum(0, dtype=np.float64)
        count += len(batch)
    if count == 0:
        raise ValueError("no images to average")
    return total / count / 255


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, Eq. 6).

    It falls with the number of items even when nothing else changes: compare only distances between sets of the
    same sizes. A bootstrap would inflate it (duplicates narrow the covariance), so it has no confidence interval.

    Args:
        first: float [n, D], n at least 2.
        second: float [m, D], m at least 2.

    Raises:
        ValueError: if a set has fewer than 2 items.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"a covariance needs 2 items, got {len(first)} and {len(second)}")
    means, roots, variance = [], [], 0.0
    for features in (first, second):
        features = np.asarray(features, np.float64)
        means.append(features.mean(0))
        centred = (features - means[-1]) / (len(features) - 1) ** 0.5
        variance += (centred**2).sum()  # the trace of the covariance
        roots.append(np.linalg.qr(centred, mode="r"))  # R with R^T R the covariance
    # tr (A B)^(1/2) is the nuclear norm of R_A R_B^T: no root of an ill-conditioned product is taken.
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return max(0.0, float(((means[0] - means[1]) ** 2).sum() + variance - 2 * overlap))


def inception_features(
    batches: Iterable[np.ndarray], weights: str | Path, device: str = "cpu", layer: str = "2048"
) -> np.ndarray:
    """Compute features, float32 [N, D], of torch-fidelity's Inception v3, the network of published FID values.

    Args:
        batches: uint8 grey images [k, H, W].
        weights: the file `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity's releases.
        device: where the network runs.
        layer: "2048" for FID; "64", "192", "768" are lower ones.

    Raises:
        InputError: if the file cannot be read or holds other weights.
    """
    try:
        # torch-fidelity unpickles whatever the file holds. It is given a copy of the tensors alone.
        tensors = read_weights(weights)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "weights.pth"
            torch.save(tensors, copy)
            network = FeatureExtractorInceptionV3(
                "inception", [layer], feature_extractor_weights_path=str(copy)
            )
    except (InputError, RuntimeError, AttributeError, TypeError) as error:
        raise InputError(
            f"score_images.inception_weights: {weights} does not hold torch-fidelity's Inception weights "
            f"({str(error).splitlines()[0]}); download weights-inception-2015-12-05-6726825d.pth from the "
            f"releases of torch-fidelity, or set {NO_FILE}"
        ) from error
    network.to(device)
    features = []
    for batch in batches:
        pixels = torch.from_numpy(np.ascontiguousarray(batch)).to(device)
        (found,) = network(pixels[:, None].expand(-1, 3, -1, -1))
        features.append(found.cpu().numpy())
    return np.concatenate(features)
