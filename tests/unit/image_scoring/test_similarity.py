"""Image scores against scikit-image, torch-fidelity, scipy's matrix square root and closed forms."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from skimage.metrics import peak_signal_noise_ratio

from medunifier.image_scoring.similarity import (
    frechet_distance,
    inception_features,
    mean_image,
    ms_ssim,
    psnr,
    ssim,
    thumbnails,
)
from medunifier.runtime.errors import InputError


def images(n: int, seed: int, side: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).random((n, side, side)).astype(np.float32)


def test_psnr_equals_scikit_image():
    a, b = images(4, 0), images(4, 1)
    expected = [peak_signal_noise_ratio(x, y, data_range=1.0) for x, y in zip(a, b, strict=True)]
    assert psnr(a, b) == pytest.approx(expected)
    assert psnr(a, b[0])[2] == pytest.approx(peak_signal_noise_ratio(a[2], b[0], data_range=1.0))


def test_psnr_of_a_known_error_and_of_a_copy():
    grey = np.full((1, 8, 8), 0.5, np.float32)
    assert psnr(grey + 0.1, grey)[0] == pytest.approx(20, abs=1e-4)
    assert psnr(grey, grey)[0] == pytest.approx(100)


def test_ssim_bounds_and_order():
    truth = images(3, 0)
    assert ssim(truth, truth) == pytest.approx([1, 1, 1])
    noise = np.random.default_rng(1).normal(size=truth.shape).astype(np.float32)
    little, much = ssim(truth + 0.05 * noise, truth), ssim(truth + 0.5 * noise, truth)
    assert (much < little).all() and (little < 1).all()


def test_ssim_of_flat_images_has_a_closed_form():
    """Without variance only the comparison of means is left: (2ab + C1) / (a^2 + b^2 + C1), C1 = 0.01^2."""
    a, b = np.full((1, 16, 16), 0.4), np.full((1, 16, 16), 0.6)
    assert ssim(a, b)[0] == pytest.approx((2 * 0.24 + 1e-4) / (0.16 + 0.36 + 1e-4), rel=1e-6)


def test_mean_image_over_batches():
    stored = np.random.default_rng(0).integers(0, 256, (7, 5, 6), dtype=np.uint8)
    assert mean_image([stored[:3], stored[3:]]) == pytest.approx(stored.mean(0) / 255)
    with pytest.raises(ValueError, match="no images"):
        mean_image([])


def test_frechet_distance_equals_scipys_square_root():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    b = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 1
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_shifted_and_equal_sets():
    a = np.random.default_rng(0).normal(size=(20, 30))  # fewer items than dimensions: a singular covariance
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(a, a + 2) == pytest.approx(30 * 4, rel=1e-6)
    with pytest.raises(ValueError, match="needs 2 items"):
        frechet_distance(a[:1], a)


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """A file in the form of torch-fidelity's, with random weights."""
    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = module.FeatureExtractorInceptionV3("inception", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_features_give_torch_fidelitys_fid(random_inception):
    """The whole way through torch-fidelity (files aside) gives the same distance; a low layer, to be quick."""
    import torch
    from torch_fidelity import calculate_metrics

    class Grey(torch.utils.data.Dataset):
        def __init__(self, stored):
            self.stored = stored

        def __len__(self):
            return len(self.stored)

        def __getitem__(self, i):
            return torch.from_numpy(self.stored[i]).expand(3, -1, -1).contiguous()

    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (4, 32, 32), dtype=np.uint8)
    second = rng.integers(0, 128, (5, 32, 32), dtype=np.uint8)
    found = [
        inception_features([part[:2], part[2:]], random_inception, layer="64") for part in (first, second)
    ]
    assert found[0].shape == (4, 64)
    expected = calculate_metrics(
        input1=Grey(first),
        input2=Grey(second),
        fid=True,
        feature_layer_fid="64",
        feature_extractor_weights_path=str(random_inception),
        cuda=False,
        cache=False,
        verbose=False,
        batch_size=4,
        save_cpu_ram=True,
    )["frechet_inception_distance"]
    assert frechet_distance(*found) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("content", [None, b"", b"not weights", "other network"])
def test_wrong_inception_file_is_an_input_error(tmp_path, content):
    import torch

    path = tmp_path / "weights.pth"
    if content == "other network":
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="Inception weights"):
        inception_features([np.zeros((1, 8, 8), np.uint8)], path)


def test_ms_ssim_by_its_definition():
    from scipy.ndimage import gaussian_filter

    a = np.random.default_rng(0).random((2, 176, 192))
    a = np.stack([gaussian_filter(x, 2) for x in a])
    b = 0.8 * a + 0.1 + 0.05 * np.random.default_rng(1).random(a.shape)

    def terms(x, y):
        """Means of luminance x contrast-structure, and of contrast-structure, where the window is inside."""

        def blur(z):
            return gaussian_filter(z, 1.5, truncate=3.5)[5:-5, 5:-5]

        mx, my = blur(x), blur(y)
        vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        structure = (2 * vxy + 0.03**2) / (vx + vy + 0.03**2)
        return ((2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4) * structure).mean(), structure.mean()

    def slow(x, y):
        product = 1.0
        for weight in (0.0448, 0.2856, 0.3001, 0.2363):
            product *= terms(x, y)[1] ** weight
            x, y = ((z[::2, ::2] + z[1::2, ::2] + z[::2, 1::2] + z[1::2, 1::2]) / 4 for z in (x, y))
        return product * terms(x, y)[0] ** 0.1333

    found = ms_ssim(a, b)
    assert found == pytest.approx([slow(*pair) for pair in zip(a, b, strict=True)], rel=1e-6)
    assert ms_ssim(a, a) == pytest.approx([1, 1])
    assert (ms_ssim(a, 1 - a) == 0).all()  # negative structure


def test_thumbnails_are_means_of_parts():
    stored = np.random.default_rng(0).integers(0, 256, (3, 8, 12), dtype=np.uint8)
    found = thumbnails(stored, 4).reshape(3, 4, 4)
    assert found[1, 2, 3] == pytest.approx(stored[1, 4:6, 9:12].mean() / 255)
    with pytest.raises(ValueError, match="do not divide"):
        thumbnails(stored, 5)
