"""Layers and decoders of the paper and of the authors' code, against constructions from torch.nn alone."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medunifier.model.image_decoders import (
    DeconvolutionalDecoder,
    ResidualDecoder,
    image_decoder,
    top_decoder,
)
from medunifier.model.image_generator import ImageGenerator, LatentAdapter
from medunifier.model.image_layers import ResidualLayer, sinusoidal_positions


def doubling(source: int, width: int) -> nn.ConvTranspose2d:
    """The transposed convolution of the authors' code: kernel 4, stride 2, padding 1."""
    return nn.ConvTranspose2d(source, width, 4, 2, 1)


def he_bottleneck(channels: int) -> nn.Sequential:
    """The residual branch of He et al. (2016), around half the channels."""
    half = channels // 2
    return nn.Sequential(
        nn.Conv2d(channels, half, 1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(),
        nn.Conv2d(half, half, 3, 1, 1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(),
        nn.Conv2d(half, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


def same_weights(plain: nn.Module, ours: nn.Module) -> None:
    """Copy the weights of `ours` into `plain`, in order: the same layers in the same order, or it fails."""
    state = list(ours.state_dict().values())
    names = list(plain.state_dict())
    assert len(state) == len(names)
    plain.load_state_dict(dict(zip(names, state, strict=True)))


def check_equal(plain: nn.Module, ours: nn.Module, *inputs: torch.Tensor) -> None:
    """In training and in evaluation mode, in double precision: outputs and the gradients of all weights."""
    same_weights(plain.double(), ours.double())
    inputs = tuple(x.double() for x in inputs)
    joined = torch.cat(inputs, 1)
    for training in (True, False):
        plain.train(training)
        ours.train(training)
        expected, found = plain(joined), ours(*inputs)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        upstream = torch.randn_like(expected)
        gradients = [
            torch.autograd.grad((x * upstream).sum(), list(module.parameters()))
            for x, module in ((found, ours), (expected, plain))
        ]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_bottom_decoder_of_the_paper_is_four_deconvolutional_blocks():
    """Appendix 2: each a transposed convolution, a ReLU and a batch normalisation; the last one makes the pixels."""
    torch.manual_seed(0)
    widths = (10, 12, 8, 6, 3)
    plain = nn.Sequential(nn.Conv2d(8, 10, 3))
    for a, b in itertools.pairwise(widths):
        plain.extend([doubling(a, b), nn.ReLU(), nn.BatchNorm2d(b)])
    ours = DeconvolutionalDecoder(8, widths[:-1], 3, "batch")
    check_equal(plain, ours, torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16))
    assert ours.float()(torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)).shape == (2, 3, 224, 224)


def test_first_images_of_the_papers_decoder_are_mid_grey():
    torch.manual_seed(0)
    decoder = DeconvolutionalDecoder(8, (10, 12, 8, 6), 3, "batch").train()
    images = decoder(torch.randn(4, 4, 16, 16), torch.randn(4, 4, 16, 16))
    assert images.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert images.std().item() == pytest.approx(0.1, abs=1e-2)


def test_top_decoder_of_the_paper_is_one_deconvolutional_block():
    torch.manual_seed(0)
    plain = nn.Sequential(doubling(6, 6), nn.ReLU(), nn.BatchNorm2d(6))
    check_equal(plain, top_decoder("deconvolutional", 6, "batch"), torch.randn(3, 6, 8, 8))


class AuthorsStack(nn.Module):
    """A residual layer, then `after`."""

    def __init__(self, before: nn.Module, channels: int, after: nn.Module):
        super().__init__()
        self.before, self.branch, self.after = before, he_bottleneck(channels), after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        return self.after(F.relu(x + self.branch(x)))


def test_top_decoder_of_the_authors_is_a_residual_layer_and_a_bare_transposed_convolution():
    torch.manual_seed(0)
    plain = AuthorsStack(nn.Identity(), 6, doubling(6, 6))
    ours = top_decoder("residual", 6, "batch")
    check_equal(plain, ours, torch.randn(3, 6, 8, 8))
    assert ours.float()(torch.randn(3, 6, 8, 8)).min() < 0  # bare: nothing cuts it off


def test_bottom_decoder_of_the_authors():
    torch.manual_seed(0)
    after = nn.Sequential()
    for a, b in ((8, 16), (16, 12), (12, 6)):
        after.extend([doubling(a, b), nn.BatchNorm2d(b), nn.ReLU()])
    after.append(doubling(6, 3))
    plain = AuthorsStack(nn.Conv2d(9, 8, 3), 8, after)
    ours = ResidualDecoder(9, (8, 16, 12, 6), 3, "batch")
    check_equal(plain, ours, torch.randn(2, 4, 16, 16), torch.randn(2, 5, 16, 16))


def test_residual_layer_is_batch_normalised_and_ends_in_a_relu():
    torch.manual_seed(0)
    plain, ours = AuthorsStack(nn.Identity(), 8, nn.Identity()), ResidualLayer(8)
    check_equal(plain, ours, torch.randn(3, 8, 5, 7))
    assert ours.float()(torch.randn(3, 8, 5, 7)).min() == 0
    assert all(m.num_batches_tracked == 1 for m in ours.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(("channels", "rows", "columns"), [(8, 3, 5), (12, 16, 16), (768, 4, 8)])
def test_positions_are_those_of_wang_and_liu(channels, rows, columns):
    """Value by value: sine and cosine in turn, of the row in the first half of the channels, of the column after."""
    found = sinusoidal_positions(channels, rows, columns, torch.zeros(1, dtype=torch.float64))
    assert found.shape == (channels, rows, columns)
    for c in range(0, channels, max(1, channels // 24)):
        within = c % (channels // 2)
        frequency = 1 / 10_000 ** (4 * (within // 2) / channels)
        wave = math.cos if within % 2 else math.sin
        for i in range(rows):
            for j in range(columns):
                place = i if c < channels // 2 else j
                assert float(found[c, i, j]) == pytest.approx(wave(place * frequency), abs=1e-5)


def test_every_place_has_positions_of_its_own():
    flat = sinusoidal_positions(8, 16, 16, torch.zeros(1)).flatten(1)
    assert (torch.cdist(flat.T, flat.T) + torch.eye(256)).min() > 1e-3


def test_adapter_of_the_authors_code_step_by_step():
    """Map, positions on the tokens' own 4 x 8 map, resizing, residual layers; no position is learnt."""
    torch.manual_seed(0)
    adapter = LatentAdapter(12, 8, (4, 8), 8, "rectified", 2, "batch_norm", "sinusoidal").eval()
    assert not [name for name, _ in adapter.named_parameters() if "position" in name]
    tokens = torch.randn(2, 32, 12)
    with torch.no_grad():
        x = adapter.map(tokens).permute(0, 2, 1).reshape(2, 8, 4, 8)
        x = x + sinusoidal_positions(8, 4, 8, x)
        x = F.interpolate(x, (8, 8), mode="bilinear", align_corners=False)
        for layer in adapter.residual:
            x = F.relu(x + layer.block(x))
        torch.testing.assert_close(adapter(tokens), x, rtol=0, atol=1e-5)


def test_sinusoidal_positions_need_four_channels_a_frequency():
    with pytest.raises(ValueError, match="multiple of 4"):
        LatentAdapter(12, 10, (4, 8), 8, "rectified", 1, "plain", "sinusoidal")


@pytest.mark.parametrize("decoder", ["deconvolutional", "residual"])
def test_codes_decode_to_the_images_of_the_forward_pass(decoder):
    torch.manual_seed(0)
    generator = ImageGenerator(
        query_width=12,
        vision_width=10,
        grid=(16, 16),
        queries=32,
        code_width=8,
        codebook_size=16,
        decoder_channels=(8, 12, 8, 6),
        image_channels=3,
        decoder_kind=decoder,
        norm="batch",
        decoder_shortcut=False,
        adapter="rectified",
        adapter_residual="batch_norm",
        adapter_position="sinusoidal",
    )
    inputs = torch.randn(2, 32, 12), torch.randn(2, 256, 10), torch.randn(2, 12)
    generator.train()(*inputs)  # gives the norms their statistics
    out = generator.eval()(*inputs)
    decoded = generator.decode(out.top.codes, out.bottom.codes)
    torch.testing.assert_close(decoded, out.images.clamp(0, 1), rtol=0, atol=1e-5)


def test_the_authors_double_the_top_twice_by_weights_of_their_own():
    """Once for the bottom's latents, once for the decoder."""
    torch.manual_seed(0)
    sizes = {"query_width": 12, "vision_width": 10, "grid": (16, 16), "queries": 32, "code_width": 8}
    generator = ImageGenerator(
        **sizes,
        codebook_size=16,
        decoder_channels=(8, 8, 8, 8),
        image_channels=1,
        decoder_kind="residual",
        norm="batch",
    ).eval()
    inputs = torch.randn(2, 32, 12), torch.randn(2, 256, 10), torch.randn(2, 12)
    codes, images = (x := generator(*inputs)).bottom.codes, x.images
    with torch.no_grad():
        generator.second_doubling.weight.add_(0.5)
    changed = generator(*inputs)
    assert torch.equal(changed.bottom.codes, codes)
    assert not torch.allclose(changed.images, images)


def test_a_decoder_of_no_known_kind_is_refused():
    with pytest.raises(KeyError):
        image_decoder("plain", 8, (8, 8, 8, 8), 1, "batch", False)
