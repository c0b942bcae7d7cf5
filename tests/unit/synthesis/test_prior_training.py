"""Bits per code, which a training in half precision must not change."""

import numpy as np
import pytest
import torch

from medunifier.synthesis.prior_training import bits_per_code, code_loss
from medunifier.training.checkpoints import Checkpoints
from medunifier.training.loop import Trainer
from tests.support.priors import inputs, make_prior
from tests.support.small_training import Silent, recipe


class Codes:
    """Codes of a level in memory, as `CodesOfSplit` has them."""

    def __init__(self, level: str, size: int):
        self.batch = inputs(level, size)

    def __len__(self) -> int:
        return len(self.batch["codes"])

    def load(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        return {name: value[rows] for name, value in self.batch.items()}


@pytest.mark.usefixtures("any_precision")
@pytest.mark.parametrize("level", ["top", "bottom"])
def test_bits_per_code_after_a_training_in_bf16_are_those_of_the_same_weights_loaded_anew(level, tmp_path):
    codes, prior, trained_in = Codes(level, 6), make_prior(level), set()

    def loss(model, batch, _):
        trained_in.add(model(batch["codes"], batch.get("top"), None).dtype)
        return code_loss(model, batch, None), {}

    history = Trainer(
        prior,
        recipe(precision="bf16", steps=2, batch_size=2, validate_every=1),
        items=6,
        load=codes.load,
        loss=loss,
        validate=lambda model: {"bits_per_code": float(bits_per_code(model, codes, None).mean())},
        tracker=Silent(),
        checkpoints=Checkpoints(tmp_path),
    ).run()
    again = make_prior(level)
    again.load_state_dict(prior.state_dict())
    expected = bits_per_code(again, codes, None)
    assert np.array_equal(bits_per_code(prior.eval(), codes, None), expected)
    assert history.rows[-1]["bits_per_code"] == expected.mean()
    assert trained_in == {torch.bfloat16}
    with torch.no_grad():  # an independent count: -log2 of the softmax at each code, in double precision
        logits = again.double()(codes.batch["codes"], codes.batch.get("top"), None).numpy()
    chosen = np.take_along_axis(logits, codes.batch["codes"].numpy()[..., None], 2)[..., 0]
    bits = (np.log(np.exp(logits).sum(2)) - chosen) / np.log(2)
    np.testing.assert_allclose(expected, bits.mean(1), atol=1e-5)
