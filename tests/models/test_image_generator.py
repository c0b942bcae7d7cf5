"""Quantiser and generator against equations and by properties."""

import numpy as np
import torch

from stages.models.image_generator import ImageGenerator
from stages.models.quantizer import Quantizer


def make(**changes):
    sizes = {
        "query_width": 12,
        "vision_width": 10,
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
    assert quantizer.revived > 0
    assert len(last.codes.unique()) > 16


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
