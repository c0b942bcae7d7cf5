"""Quantiser and generator against equations and by properties."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from medunifier.model.config import Sizes
from medunifier.model.image_decoders import ResidualDecoder, TaperedDecoder
from medunifier.model.image_generator import ImageGenerator
from medunifier.model.image_layers import Enlarge, Norm2d, resize
from medunifier.model.network import MedUnifierNetwork
from medunifier.model.quantizer import Quantizer
from medunifier.runtime.errors import InputError


def make(**changes):
    sizes = {
        "query_width": 12,
        "vision_width": 10,
        "grid": (16, 16),
        "queries": 32,
        "code_width": 8,
        "codebook_size": 16,
        "decoder_channels": (8, 8, 4, 4),
        "image_channels": 1,
    }
    return ImageGenerator(**(sizes | changes))


def test_quantizer_takes_the_nearest_code_and_equation_23_terms():
    torch.manual_seed(0)
    quantizer = Quantizer(7, 3).eval()
    z = torch.randn(2, 3, 4, 5)
    out = quantizer(z)
    e, total = quantizer.codebook.detach().numpy(), 0.0
    for b, i, j in np.ndindex(2, 4, 5):
        vector = z[b, :, i, j].numpy()
        distances = ((e - vector) ** 2).sum(1)
        assert out.codes[b, i, j] == distances.argmin()
        np.testing.assert_allclose(out.latents[b, :, i, j].detach(), e[distances.argmin()], atol=1e-6)
        total += distances.min()
    np.testing.assert_allclose(out.codebook_loss.item(), total / z.numel(), rtol=1e-5)
    np.testing.assert_allclose(out.commitment_loss.item(), total / z.numel(), rtol=1e-5)


def test_gradients_go_where_equation_23_sends_them():
    torch.manual_seed(0)
    quantizer = Quantizer(7, 3).eval()
    z = torch.randn(2, 3, 4, 5, requires_grad=True)
    weights = torch.randn(2, 3, 4, 5)
    (quantizer(z).latents * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)  # straight through
    assert quantizer.codebook.grad is None or not quantizer.codebook.grad.any()
    z.grad = None
    quantizer(z).codebook_loss.backward()
    assert quantizer.codebook.grad.any() and (z.grad is None or not z.grad.any())
    quantizer.zero_grad()
    quantizer(z).commitment_loss.backward()
    assert z.grad.any() and (quantizer.codebook.grad is None or not quantizer.codebook.grad.any())


def test_codebook_starts_on_data_and_dead_codes_come_back():
    torch.manual_seed(0)
    quantizer = Quantizer(32, 4).train()
    z = torch.randn(4, 4, 8, 8) * 0.01 + 5  # far from the random start
    first = quantizer(z)
    assert first.codebook_loss < 1e-3
    with torch.no_grad():
        quantizer.codebook[1:] = -100.0  # nothing chooses these any more
    for _ in range(150):
        last = quantizer(z)
        quantizer.end_step()
    assert quantizer.revived > 0
    assert len(last.codes.unique()) > 16


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_usage_forgets_per_optimizer_step_however_many_micro_batches_it_has(micro_batches):
    """After three steps of 8 images, against the average written out in NumPy; codes move in none of them."""
    torch.manual_seed(1)
    quantizer = Quantizer(5, 3, start="uniform", decay=0.7).train()
    expected = np.full(5, 1 / 5)
    for _ in range(3):
        z = 0.2 * torch.randn(8, 3, 2, 2)
        for part in z.chunk(micro_batches):
            quantizer(part)
        quantizer.end_step()
        latents, codes = z.permute(0, 2, 3, 1).reshape(-1, 3).numpy(), quantizer.codebook.detach().numpy()
        nearest = ((latents[:, None] - codes) ** 2).sum(2).argmin(1)
        expected = 0.7 * expected + 0.3 * np.bincount(nearest, minlength=5) / len(nearest)
    np.testing.assert_allclose(quantizer.usage.numpy(), expected, atol=1e-6)


def test_codes_move_once_in_an_optimizer_step():
    torch.manual_seed(0)
    quantizer = Quantizer(8, 4, decay=0.0).train()  # unused in one step: dead in the next
    quantizer(torch.randn(4, 4, 4, 4))
    quantizer.end_step()
    with torch.no_grad():
        quantizer.codebook[1:] = -100.0
    quantizer(torch.randn(4, 4, 4, 4))
    assert quantizer.revived == 0  # dead only from the next step on
    quantizer.end_step()
    quantizer(torch.randn(4, 4, 4, 4))
    moved = quantizer.codebook.clone()
    assert quantizer.revived == 7
    with torch.no_grad():
        quantizer.codebook[1:] = -100.0
    quantizer(torch.randn(4, 4, 4, 4))  # a second micro-batch of this step
    assert quantizer.revived == 7 and (quantizer.codebook[1:] == -100).all() and (moved[1:] > -100).all()


def test_evaluation_changes_nothing():
    torch.manual_seed(0)
    model = make(norm="batch")
    model.train()
    model(torch.randn(2, 32, 12), torch.randn(2, 256, 10), torch.randn(2, 12))
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    one = torch.randn(1, 32, 12), torch.randn(1, 256, 10), torch.randn(1, 12)
    alone = model(*one).images
    together = model(*(torch.cat([x, torch.randn_like(x)]) for x in one)).images[:1]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_decoding_codes_equals_the_forward_pass():
    torch.manual_seed(0)
    model = make(image_channels=3).eval()
    out = model(torch.randn(2, 32, 12), torch.randn(2, 256, 10), torch.randn(2, 12))
    assert out.images.shape == (2, 3, 224, 224)
    assert out.top.codes.shape == (2, 8, 8) and out.bottom.codes.shape == (2, 16, 16)
    decoded = model.decode(out.top.codes, out.bottom.codes)
    torch.testing.assert_close(decoded, out.images.clamp(0, 1), rtol=0, atol=1e-5)


def test_bottom_codes_depend_on_text_and_on_the_top():
    torch.manual_seed(0)
    model = make().eval()
    queries, patches, text = torch.randn(1, 32, 12), torch.randn(1, 256, 10), torch.randn(1, 12)
    codes = model(queries, patches, text).bottom.codes
    assert (model(queries, patches, text + 3 * torch.randn(1, 12)).bottom.codes != codes).any()
    assert (model(queries + 3 * torch.randn(1, 32, 12), patches, text).bottom.codes != codes).any()


@pytest.mark.parametrize(
    ("kind", "channels", "million_parameters", "gflop"),
    [
        (ResidualDecoder, (2304, 4608, 4608, 2304), 727, 1686),
        (TaperedDecoder, (768, 384, 192, 96), 17, 10),
    ],
)
def test_arithmetic_of_the_decoders_is_that_of_method_md(kind, channels, million_parameters, gflop):
    """The reference counts the convolutions without the residual block, and its decoders have no shortcut."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        source = 2304 if channels[0] == 2304 else 1536
        decoder = kind(source, channels, 3, "batch", *([False] if kind is TaperedDecoder else []))
        residual = sum(p.numel() for p in decoder.residual.parameters() if p.ndim > 1)
        assert decoder(torch.empty(1, 768, 16, 16), torch.empty(1, source - 768, 16, 16)).shape[-1] == 224
    parameters = sum(p.numel() for p in decoder.parameters()) - residual
    assert parameters / 1e6 == pytest.approx(million_parameters, rel=0.02)
    flop = counter.get_total_flops() - 2 * 14 * 14 * residual
    assert flop / 1e9 == pytest.approx(gflop, rel=0.02)


def test_the_shortcut_adds_a_patch_of_32_pixels_around_each_place_of_the_map():
    """Against a sum over places, pixel by pixel."""
    torch.manual_seed(0)
    with_shortcut = TaperedDecoder(4, (8, 8, 8, 8), 2, "group", shortcut=True).eval()
    without = TaperedDecoder(4, (8, 8, 8, 8), 2, "group", shortcut=False).eval()
    without.load_state_dict(
        {k: v for k, v in with_shortcut.state_dict().items() if not k.startswith("shortcut")}
    )
    top, bottom = torch.randn(1, 2, 16, 16), torch.randn(1, 2, 16, 16)
    with torch.no_grad():
        found = with_shortcut(top, bottom) - without(top, bottom)
        x = without.residual(without.enter(torch.cat([top, bottom], 1)))
    patches = with_shortcut.shortcut.weight.detach()  # (channels, image channels, 32, 32)
    expected = torch.zeros(2, 224 + 16, 224 + 16)  # 8 pixels more on each side, cut off at the end
    for i, j in np.ndindex(14, 14):
        place = expected[:, 16 * i : 16 * i + 32, 16 * j : 16 * j + 32]
        place += torch.einsum("c,cohw->ohw", x[0, :, i, j], patches)
    torch.testing.assert_close(found[0], expected[:, 8:-8, 8:-8], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("channels", "last"), [((8, 8, 8, 4), 2), ((8, 8, 4), 4)])
def test_the_last_transposed_convolution_does_what_the_doublings_leave(channels, last):
    decoder = TaperedDecoder(4, channels, 3, "group", shortcut=True)
    assert decoder.leave.stride == (last, last)
    assert decoder(torch.randn(2, 1, 16, 16), torch.randn(2, 3, 16, 16)).shape == (2, 3, 224, 224)


@pytest.mark.parametrize("channels", [4, 8, 12, 16, 24, 48, 96, 384])
def test_norm_keeps_the_brightness_in_the_channels(channels):
    """Each channel normalised alone would have mean 0, however bright the image is there."""
    torch.manual_seed(0)
    norm = Norm2d(channels)
    x = torch.randn(2, channels, 5, 5) + torch.arange(channels)[:, None, None]
    assert norm(x).mean((2, 3)).std(1).min() > 0.5
    assert channels < 64 or norm.num_groups == 8


@pytest.mark.slow
def test_choices_of_the_authors_code():
    torch.manual_seed(0)
    model = make(
        adapter="rectified",
        adapter_blocks=3,
        adapter_residual="batch_norm",
        adapter_position="sinusoidal",
        bottom_latents="concatenated",
        codebook_start="uniform",
        norm="batch",
        decoder_kind="residual",
        decoder_channels=(24, 48, 48, 24),
        decoder_shortcut=False,
    ).train()
    inputs = torch.randn(2, 32, 12), torch.randn(2, 256, 10), torch.randn(2, 12)
    assert (model.top_adapter(inputs[0]) >= 0).all()
    assert model.bottom_quantizer.codebook.shape == (16, 16)  # twice the code width of 8
    before = model.top_quantizer.codebook.clone()
    assert before.abs().max() <= 1 / 16
    for _ in range(100):
        out = model(*inputs)
    assert out.bottom.latents.shape == (2, 16, 16, 16) and out.images.shape == (2, 1, 224, 224)
    assert torch.equal(model.top_quantizer.codebook, before) and model.top_quantizer.revived == 0
    decoded = model.eval().decode(out.top.codes, out.bottom.codes)
    assert decoded.shape == (2, 1, 224, 224)


def test_every_residual_block_has_weights_and_every_norm_statistics_of_its_own():
    """The authors' code runs one block three times and updates its BatchNorm three times in a step."""
    model = make(adapter_blocks=3, norm="batch").train()
    blocks = [*model.top_adapter.residual, *model.bottom_adapter.residual]
    assert len({id(p) for block in blocks for p in block.parameters()}) == 6 * 4
    model(torch.randn(2, 32, 12), torch.randn(2, 256, 10), torch.randn(2, 12))
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(m.num_batches_tracked == 1 for m in norms)


def test_first_loss_is_of_one_scale_with_the_images_unless_as_in_the_authors_code():
    """Latents that end in a ReLU against codes near zero make a first loss that drowns the others."""
    inputs = torch.randn(4, 32, 12), torch.randn(4, 256, 10), torch.randn(4, 12)

    def first(**changes):
        torch.manual_seed(0)
        made = make(codebook_size=64, **changes).train()(*inputs)
        return float(made.top.codebook_loss + made.bottom.codebook_loss)

    assert first() < 0.1 < first(adapter="rectified", codebook_start="uniform")


@pytest.mark.parametrize(("height", "side"), [(14, 14), (24, 24), (37, 37), (24, 14)])
def test_patches_of_another_grid_are_resized_to_the_bottom_map(height, side):
    """One patch token that differs moves latents where it lies in the image, and nowhere else."""
    torch.manual_seed(0)
    generator = make(grid=(height, side), adapter_blocks=0).eval()
    patches = torch.randn(1, height * side, 22)
    with torch.no_grad():
        before = generator.bottom_adapter(patches)
        patches[0, side * 3 + side // 2] += 5  # row 3, in the middle
        moved = (generator.bottom_adapter(patches) - before).abs().sum(1)[0] > 1e-6
    assert before.shape == (1, 8, 16, 16)
    rows, columns = moved.nonzero().T
    assert moved.any() and abs(rows.float().mean() - 3.5 * 16 / height + 0.5) < 1
    assert abs(columns.float().mean() - (side // 2 + 0.5) * 16 / side + 0.5) < 1
    assert moved.sum() <= 9


def test_patches_that_fill_no_grid_are_refused():
    sizes = {
        "width": 8,
        "layers": 1,
        "heads": 2,
        "code_width": 8,
        "decoder_channels": (8, 8, 4, 4),
        "vocab_size": 9,
    }
    with pytest.raises(InputError, match=r"vision_tokens is 261; expected 1 \+ a square number"):
        MedUnifierNetwork(Sizes(vision_tokens=261, **sizes))
    with pytest.raises(InputError, match=r"vision_tokens is 261; expected 1 \+ 20 x 12, as vision_grid"):
        MedUnifierNetwork(Sizes(vision_tokens=261, vision_grid=[20, 12], **sizes))
    adapter = MedUnifierNetwork(
        Sizes(vision_tokens=261, vision_grid=[20, 13], **sizes)
    ).image_generator.bottom_adapter
    assert adapter.tokens == (20, 13)


@pytest.mark.parametrize(("source", "width", "times", "side"), [(16, 3, 16, 14), (12, 1, 8, 5), (5, 3, 4, 7)])
def test_enlarging_is_a_transposed_convolution(source, width, times, side):
    layer = Enlarge(source, width, times).double()
    x = torch.randn(2, source, side, side + 1, dtype=torch.float64, requires_grad=True)
    made = layer(x)
    expected = F.conv_transpose2d(x, layer.weight, layer.bias, stride=times, padding=times // 2)
    assert made.shape == (2, width, times * side, times * (side + 1))
    torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(made)
    inputs = [x, *layer.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(made, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("old", "new"), [((4, 8), (8, 8)), ((14, 14), (16, 16)), ((24, 5), (16, 16))])
def test_resizing_is_bilinear_interpolation(old, new):
    x = torch.randn(2, 3, *old, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, *new, dtype=torch.float64)
    expected = F.interpolate(x, size=new, mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize(x, *new), expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad((made * weights).sum(), x)[0] for made in (resize(x, *new), expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
