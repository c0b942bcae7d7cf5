"""Strips as the page tells them: the sentence, and the word that changes."""

import numpy as np
import polars as pl
import pytest

from medunifier.report.generated_section import Nearest, distance_rows, strip_lines
from medunifier.storage.image_shards import ImageStore, write_images
from medunifier.synthesis.generated_sets import GENERATED, write_generated_set
from medunifier.synthesis.prompts import Strip


def write_strip(folder, prompts: list[str]) -> None:
    count = len(prompts)
    table = pl.DataFrame(
        {
            "image_id": [f"strips-{i}" for i in range(count)],
            "prompt": prompts,
            "seed": [0] * count,
            "source_id": [None] * count,
            "row": [0] * count,
            "top": np.zeros((count, 64), np.uint16),
            "bottom": np.zeros((count, 256), np.uint16),
        },
        schema=dict(GENERATED.columns),
    )
    write_generated_set(folder, table, np.zeros((count, 8, 8), np.uint8), 8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("There is a {} left effusion.", ["small", "large"]),
        ("{} effusion.", ["Left", "Right"]),
        ("The heart is {}.", ["large", "small"]),
        ("The left lung is clear, the {} is not.", ["left", "right"]),  # the word stands there before
        ("An enlarged heart, {} effusion.", ["large", "small"]),  # and inside another
        ("There is a {} effusion.", ["left", "large left"]),  # one word ends as the other
    ],
)
def test_the_sentence_and_its_words_come_back(tmp_path, text, words):
    write_strip(tmp_path / "strips", Strip(text, tuple(words)).prompts())
    write_images(tmp_path / "images", ["a"], np.zeros((1, 8, 8), np.uint8), 8)
    nearest = pl.DataFrame(
        {"set": ["strips"], "image_id": ["strips-1"], "nearest_id": ["a"], "distance": [7.0]}
    )
    nearest.write_parquet(tmp_path / "nearest.parquet")
    ((sentence, shown, near),) = strip_lines(
        tmp_path / "strips", Nearest(tmp_path / "nearest.parquet", ImageStore(tmp_path / "images"))
    )
    assert sentence == text.replace("{}", "…") and [word for word, _ in shown] == words
    assert [distance for _, distance in near] == ["7.0"]


@pytest.mark.parametrize(("split", "said"), [("test", "test images"), ("train", "training images")])
def test_distances_say_whose_reconstructions_they_are_of(split, said):
    metrics = {"fd_vit_reconstruction": 2.0, "fd_vit_reconstruction_n": 7}
    ((label, n, values),) = distance_rows(metrics, split)
    assert label == f"{said}, reconstructed" and n == 7 and values[0] == 2.0
