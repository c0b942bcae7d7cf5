"""Pairs of image and report: one split of the pre-training data set, as batches for the model."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from medunifier.data.resizing import resize_grey
from medunifier.data.tokenizer import encode_all, pad
from medunifier.pretraining.augmentation import augment
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Params
from medunifier.storage.image_shards import TARGET_SIDE, ImageStore
from medunifier.storage.tables import read_table
from medunifier.vision.image_features import OnlineFeatures, check_representable, open_features

Batch = dict[str, Any]  # tensors by name; of a micro-batch also what it knows of the others, as `whole`


class FeatureExtractor(Protocol):
    """A model that encodes images with its frozen encoder, as `MedUnifierModel` does."""

    def extract_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images (B, 3, H, W) in [0, 1] to features (B, T, vision width)."""
        ...


class Pairs:
    """One split of the pre-training data set. `load` reads a batch, `model_inputs` completes it on the device.

    Rows of the prepared table without a report, a decoded image or features are left out.

    Args:
        params: `pretrain.dataset` names the data set.
        tokenizer: of the reports.
        split: `train` or `validate`.
        with_images: batches hold images, the targets of TIG. The rows are the same without them.

    Raises:
        InputError: no row is left.
    """

    def __init__(
        self, params: Params, tokenizer: PreTrainedTokenizerBase, split: str, with_images: bool = True
    ):
        name = params.pretrain.dataset
        self.images = ImageStore(Path("data/images") / name)
        self.features = open_features(name)
        table = read_table(Path("data/prepared") / name / f"{split}.parquet")
        usable = [
            (image_id, report)
            for image_id, report in table.select("image_id", "report").iter_rows()
            if report and image_id in self.images and image_id in self.features
        ]
        if not usable:
            raise InputError(
                f"data set {name}, split {split}: no image with a report; pre-training needs both."
            )
        ids = self.image_ids = [image_id for image_id, _ in usable]
        self.with_images, self.channels = with_images, params.model.image_channels
        self.online = isinstance(self.features, OnlineFeatures)
        self.augmentation = vars(params.pretrain.augment) if params.pretrain.augment else {}
        pad_id = tokenizer.pad_token_id
        assert isinstance(pad_id, int)  # `load_tokenizer` refuses a tokenizer without
        self.pad_id = pad_id
        full = params.pretrain.text_padding == "full"
        self.padded_length = params.model.max_text_tokens if full else None
        self.image_rows, self.feature_rows = self.images.rows(ids), self.features.rows(ids)
        reports = (report for _, report in usable)
        self.tokens = encode_all(tokenizer, reports, params.model.max_text_tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def shards(self) -> list[np.ndarray]:
        """Return row numbers, (k,) each, of the pairs whose features lie in the same shard."""
        shard = self.features.piece_of(self.feature_rows)
        return [np.flatnonzero(shard == number) for number in np.unique(shard)]

    def load(self, rows: np.ndarray) -> Batch:
        """Read a batch from disk.

        Args:
            rows: row numbers (k,).

        Returns:
            `input_ids` and `attention_mask` (k, L) of the reports; `features` (k, T, vision width), float16, if they
            are cached; `pixels` (k, H, W), uint8, if online features or TIG need them; with online features also
            `rows`, to name an image in an error.
        """
        ids, mask = pad([self.tokens[row] for row in rows], self.pad_id, self.padded_length)
        batch = {"input_ids": ids, "attention_mask": mask}
        if self.online:
            batch["rows"] = torch.from_numpy(rows)
        else:
            batch["features"] = torch.from_numpy(self.features.read(self.feature_rows[rows]))
        if self.online or self.with_images:
            batch["pixels"] = torch.from_numpy(self.images.read(self.image_rows[rows]))
        return batch

    def model_inputs(
        self, model: FeatureExtractor, batch: Batch, generator: torch.Generator | None = None
    ) -> Batch:
        """Complete a batch of `load`, on the model's device, to what `MedUnifierModel.forward` takes.

        Everything is computed in full precision, as cached features are, whatever the precision of training. Features
        are returned as they are stored, in half precision: they travel so between processes. A complete batch stays
        as it is.

        Args:
            model: encodes the images with online features.
            batch: of `load`.
            generator: augments the images by `pretrain.augment`, for the encoder and as TIG's target alike; None: no
                augmentation.

        Raises:
            InputError: names an image whose features half precision cannot hold.
        """
        batch = dict(batch)
        rows = batch.pop("rows", None)
        if "pixels" in batch:
            pixels = batch.pop("pixels")
            with torch.autocast(pixels.device.type, enabled=False):
                pixels = pixels[:, None].float() / 255  # (k, 1, H, W)
                if generator is not None and self.augmentation:
                    pixels = augment(pixels, generator, **self.augmentation)
                if rows is not None:
                    batch["features"] = model.extract_features(pixels.expand(-1, 3, -1, -1))
                    check_representable(batch["features"], [self.image_ids[row] for row in rows.tolist()])
            if self.with_images:
                batch["images"] = image_targets(pixels).expand(-1, self.channels, -1, -1)
        batch["features"] = batch["features"].half()  # as stored; exact for features computed here, too
        return batch


def image_targets(pixels: torch.Tensor) -> torch.Tensor:
    """Resize images (..., H, W) in [0, 1] to the 224 x 224 of the image objective; others stay as they are."""
    if pixels.shape[-2:] == (TARGET_SIDE, TARGET_SIDE):
        return pixels
    return resize_grey(pixels * 255, (TARGET_SIDE, TARGET_SIDE), "lanczos") / 255
