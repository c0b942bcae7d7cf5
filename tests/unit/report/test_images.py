import base64
import io

import numpy as np
import pytest
from PIL import Image

from medunifier.report.images import grid_pairs, jpeg_uri, mark_shared
from medunifier.runtime.errors import InputError
from medunifier.synthesis.image_grids import write_pairs


def test_pairs_come_back_out_of_the_grid_that_score_images_draws(tmp_path):
    rng = np.random.default_rng(0)
    real, drawn = rng.integers(0, 255, (2, 11, 32, 32), dtype=np.uint8)
    write_pairs(tmp_path / "grid.png", real, drawn)
    pairs = grid_pairs(tmp_path / "grid.png", 32)
    assert len(pairs) == 11
    for (a, b), c, d in zip(pairs, real, drawn, strict=True):
        assert (a == c).all() and (b == d).all()
    with pytest.raises(InputError, match=r"grid.png: a grid of 256 x 128 pixels.*run score_images again"):
        grid_pairs(tmp_path / "grid.png", 48)


def test_image_survives_as_a_data_uri():
    image = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    kind, data = jpeg_uri(image).split(",")
    assert kind == "data:image/jpeg;base64"
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert back.shape == (64, 64) and np.abs(back.astype(int) - image).mean() < 2


def test_shared_wording_is_marked_and_the_rest_is_not():
    reference, prediction = mark_shared(
        "The lungs are clear. No effusion <5 mm> is seen.",
        "Heart normal. The lungs are clear, no oedema is seen.",
    )
    assert reference == "<mark>The lungs are clear. No</mark> effusion &lt;5 mm&gt; is seen."
    assert prediction == "Heart normal. <mark>The lungs are clear, no</mark> oedema is seen."
    assert mark_shared("", "a b c") == ("", "a b c")
