"""A project folder as it is after pre-training, tiny and with random weights, for tests of the evaluations.

Feature 0 of each image's first token is the image's number, so that a stand-in model knows the image.
"""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.evaluation.trained_model import TrainedModel
from medunifier.runtime.params import Params, load_params
from medunifier.storage.image_shards import write_images
from medunifier.storage.tables import PREPARED, write_table
from medunifier.vision.feature_shards import write_feature_shard
from tests.support.paths import REPO

REPOSITORY = REPO
DATASET, VARIANT = "phantom", "full"  # as in the shipped params.yaml
SPLITS = {"train": 12, "validate": 4, "test": 8}  # images; two to a patient
TOKENS, WIDTH = 257, 8
FINDINGS = ("edema", "cardiomegaly")


def report_of(number: int) -> str:
    """Reports of ten words and more, one for every two images; image and label alternate."""
    zone = ("upper", "middle", "lower")[number // 2 % 3]
    size = ("Small", "Moderate", "Large")[number // 6 % 3]
    return f"{size} opacity in the left {zone} zone of patient {number // 2}. There is {FINDINGS[number % 2]}. No pneumothorax."


def make_project(folder: Path) -> Params:
    """Prepared tables, images, features, `models/full`; returns the shipped parameters."""
    import torch

    from medunifier.data.tokenizer import DECODE_TOKEN, train_wordpiece
    from medunifier.huggingface.modeling_medunifier import MedUnifierConfig, MedUnifierModel

    numbers = range(sum(SPLITS.values()))
    table = pl.DataFrame(
        {
            "image_id": [f"i{n:02}" for n in numbers],
            "patient_id": [f"p{n // 2}" for n in numbers],
            "study_id": [f"s{n}" for n in numbers],
            "image_path": [f"{n}.jpg" for n in numbers],
            "view": ["PA" for n in numbers],
            "findings": [report_of(n) for n in numbers],
            "impression": [None for n in numbers],
            "report": [report_of(n) for n in numbers],
            **{f"label_{name}": [int(n % 2 == i) for n in numbers] for i, name in enumerate(FINDINGS)},
        },
        schema={**PREPARED.columns, **{f"label_{name}": pl.Int8 for name in FINDINGS}},
    )
    start = 0
    for split, size in SPLITS.items():
        write_table(
            table[start : start + size], folder / f"data/prepared/{DATASET}/{split}.parquet", PREPARED
        )
        start += size

    ids, rng = table["image_id"].to_list(), np.random.default_rng(0)
    features = rng.normal(size=(len(ids), TOKENS, WIDTH)).astype(np.float16)
    features[:, 0, 0] = list(numbers)
    manifest = {"model": "none", "revision": None, "skip_last_blocks": 0, "checksum": ""}
    write_feature_shard(folder / f"data/features/{DATASET}/0", ids, [features], manifest)
    write_images(folder / f"data/images/{DATASET}", ids, (image_of(n) for n in numbers), 224)

    tokenizer = train_wordpiece(table["report"], 512)
    tokenizer.save_pretrained(folder / "models" / VARIANT)
    torch.manual_seed(0)  # whichever tests ran before
    MedUnifierModel(
        MedUnifierConfig(
            vision_width=WIDTH,
            width=16,
            layers=1,
            heads=2,
            vocab_size=len(tokenizer),
            max_text_tokens=40,
            projection=8,
            codebook_size=32,
            code_width=8,
            decoder_channels=[8, 8, 8, 8],
            image_channels=1,
            pad_token_id=tokenizer.pad_token_id,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
            decode_token_id=tokenizer.convert_tokens_to_ids(DECODE_TOKEN),
        )
    ).save_pretrained(folder / "models" / VARIANT)
    return load_params(REPOSITORY / "params.yaml")


def make_priors(text: bool = True) -> None:
    """`models/priors/full-top` and `-bottom` for the project of the working directory, with random weights."""
    import torch

    from medunifier.synthesis.pixelsnail import Prior
    from medunifier.synthesis.prior_config import PriorConfig

    torch.manual_seed(1)
    for level in ("top", "bottom"):
        config = PriorConfig(
            level=level,
            codebook_size=32,
            channels=8,
            kernel=3,
            blocks=1,
            residual_blocks=1,
            residual_channels=8,
            heads=1,
            top_blocks=1,
            text_width=16 if text else 0,
        )
        Prior(config).save_pretrained(f"models/priors/{VARIANT}-{level}")


def image_of(number: int) -> np.ndarray:
    """A smooth image, uint8 [224, 224], brighter with the number; values between 40 and 170."""
    ramp = np.linspace(0, 60, 224)
    return (40 + 3 * (number % 24) + ramp[:, None] / 2 + ramp[None] / 2).astype(np.uint8)


class StandIn:
    """A model whose methods answer by the numbers of the images, as `answers` say."""

    def __init__(self, config, **answers):
        self.config = config
        for name, answer in answers.items():
            setattr(self, name, self._by_number(answer))

    @staticmethod
    def _by_number(answer):
        return lambda features, *rest, **_: answer([int(n) for n in features[:, 0, 0]], *rest)


def with_answers(trained: TrainedModel, **answers) -> TrainedModel:
    """`trained` with a stand-in for its model."""
    return dataclasses.replace(trained, model=StandIn(trained.model.config, **answers))
