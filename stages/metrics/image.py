"""Pictures against pictures: PSNR, SSIM, Frechet distance between sets of features, Inception features."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stages.errors import InputError

_LEAST_ERROR = 1e-10  # mean squared error below which pictures count as equal: PSNR stops at 100 dB


def psnr(pictures: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each picture, at most 100.

    Args:
        pictures: float [N, H, W] in [0, 1]. truth: same, or one [H, W] for all (or the other way round).
    """
    difference = np.asarray(pictures, np.float64) - truth
    error = (difference**2).mean((-2, -1))
    return -10 * np.log10(np.maximum(error, _LEAST_ERROR))


def ssim(pictures: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity of each picture, with the Gaussian window of Wang et al. 2004.

    Args:
        pictures, truth: float [N, H, W] in [0, 1].
    """
    from skimage.metrics import structural_similarity

    settings = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return np.array([structural_similarity(a, b, **settings) for a, b in zip(pictures, truth, strict=True)])


def mean_image(batches: Iterable[np.ndarray]) -> np.ndarray:
    """The mean, float64 [H, W] in [0, 1], of uint8 pictures that come in batches [k, H, W]."""
    total, count = 0.0, 0
    for batch in batches:
        total = total + batch.sum(0, dtype=np.float64)
        count += len(batch)
    if count == 0:
        raise ValueError("no pictures to average")
    return total / count / 255


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, Eq. 6).

    It falls with the number of items even when nothing else changes: compare only distances between sets of
    the same sizes. A bootstrap would inflate it (duplicates narrow the covariance), so it has no interval.

    Args:
        first, second: float [n, D] and [m, D], n and m at least 2.
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
    """Features, float32 [N, D], of torch-fidelity's Inception v3, the network behind published FID figures.

    Args:
        batches: uint8 grey pictures [k, H, W].
        weights: the file `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity's releases.
        layer: "2048" for FID; "64", "192", "768" are lower ones.
    Raises: InputError if the file cannot be read or holds other weights.
    """
    import pickle

    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        network = FeatureExtractorInceptionV3(
            "inception", [layer], feature_extractor_weights_path=str(weights)
        )
    except (OSError, RuntimeError, AttributeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"score_images.inception_weights: {weights} does not hold torch-fidelity's Inception weights "
            f"({str(error).splitlines()[0]}); download weights-inception-2015-12-05-6726825d.pth from the "
            "releases of torch-fidelity, or set null"
        ) from error
    network.to(device)
    features = []
    for batch in batches:
        pixels = torch.from_numpy(np.ascontiguousarray(batch)).to(device)
        (found,) = network(pixels[:, None].expand(-1, 3, -1, -1))
        features.append(found.cpu().numpy())
    return np.concatenate(features)
