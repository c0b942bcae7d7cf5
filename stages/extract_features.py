"""extract_features: the frozen ViT runs once over every image; training and evaluation read its tokens.

With `features.mode: online` no token is stored: the stage records which ViT is to look at which images.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.image_shards import ImageStore
from medunifier.tracking import LocalRun
from medunifier.vision.feature_shards import write_feature_shard, write_online_shard
from medunifier.vision.image_features import look

if TYPE_CHECKING:
    from medunifier.vision.frozen_encoder import FrozenViT


def extract_features(params: Params, run: LocalRun, dataset: str, shard: str) -> None:
    """Encode one of the equal, contiguous parts of data/images/DATASET that features.shards names.

    Writes data/features/DATASET/SHARD: tokens.npy (float16 [n, n_tokens, width]; not where `features.mode` is
    `online`), image_ids.parquet, manifest.json.
    """
    import torch

    from medunifier.vision.frozen_encoder import load_vision

    store = ImageStore(Path("data/images") / dataset)
    rows = shard_rows(len(store), [str(name) for name in params.features.shards], shard)
    settings = params.vision
    model = load_vision(settings.model, settings.revision, settings.skip_last_blocks)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    manifest = {
        "model": settings.model,
        "revision": settings.revision,
        "skip_last_blocks": settings.skip_last_blocks,
        "checksum": model.checksum,
    }
    image_ids, folder = store.image_ids[rows.start : rows.stop], Path("data/features") / dataset / shard
    if params.features.mode == "online":
        one = look(
            model, store.read(rows[:1]), image_ids
        )  # tells the shape, and whether the ViT works at all
        write_online_shard(folder, image_ids, one.shape[1:], manifest)
    else:
        tokens = encode(store, rows, model, params.features.batch_size, run)
        write_feature_shard(folder, image_ids, tokens, manifest)
    run.metrics({"images": len(rows)})


def shard_rows(images: int, shards: Sequence[str], shard: str) -> range:
    """The rows of one shard. InputError for an unknown shard, or one that would be empty."""
    if shard not in shards:
        raise InputError(f"no shard {shard!r} in features.shards of params.yaml; it has {', '.join(shards)}")
    number = shards.index(shard)
    rows = range(number * images // len(shards), (number + 1) * images // len(shards))
    if not rows:
        raise InputError(f"features.shards: {len(shards)} shards for {images} images; name fewer shards")
    return rows


def encode(
    store: ImageStore, rows: range, model: "FrozenViT", batch_size: int, run: LocalRun
) -> Iterator[np.ndarray]:
    """Yield the tokens, float16 [k, n_tokens, width], of `rows` in batches. InputError as `look` raises it."""
    for start in range(rows.start, rows.stop, batch_size):
        batch = range(start, min(start + batch_size, rows.stop))
        yield look(model, store.read(batch), store.image_ids[batch.start : batch.stop])
        done, before = batch.stop - rows.start, start - rows.start
        if 10 * done // len(rows) > 10 * before // len(rows):
            run.log(f"{done} of {len(rows)} images")


if __name__ == "__main__":
    run_stage(extract_features, arguments=("dataset", "shard"))
