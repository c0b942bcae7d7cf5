"""extract_features: the frozen ViT runs once over every picture; training and evaluation read its tokens.

With `features.mode: online` no token is stored: the stage records which ViT is to look at which pictures.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.entry import run_stage
from stages.errors import InputError
from stages.params import Params
from stages.storage.features import write_feature_shard, write_online_shard
from stages.storage.images import ImageStore
from stages.tracking import LocalRun

if TYPE_CHECKING:
    from stages.models.vision import FrozenViT

_HALF_MAX = float(np.finfo(np.float16).max)


def extract_features(params: Params, run: LocalRun, dataset: str, shard: str) -> None:
    """Encode one of the equal, contiguous parts of data/images/DATASET that features.shards names.

    Writes data/features/DATASET/SHARD: tokens.npy (float16 [n, n_tokens, width]; not where `features.mode` is
    `online`), image_ids.parquet, manifest.json.
    """
    import torch

    from stages.models.vision import load_vision

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
        (first,) = encode(store, rows[:1], model, 1, run)  # tells the shape, and whether the ViT works at all
        write_online_shard(folder, image_ids, first.shape[1:], manifest)
    else:
        tokens = encode(store, rows, model, params.features.batch_size, run)
        write_feature_shard(folder, image_ids, tokens, manifest)
    run.metrics({"images": len(rows)})


def shard_rows(pictures: int, shards: Sequence[str], shard: str) -> range:
    """The rows of one shard. InputError for an unknown shard, or one that would be empty."""
    if shard not in shards:
        raise InputError(f"no shard {shard!r} in features.shards of params.yaml; it has {', '.join(shards)}")
    number = shards.index(shard)
    rows = range(number * pictures // len(shards), (number + 1) * pictures // len(shards))
    if not rows:
        raise InputError(f"features.shards: {len(shards)} shards for {pictures} pictures; name fewer shards")
    return rows


def encode(
    store: ImageStore, rows: range, model: "FrozenViT", batch_size: int, run: LocalRun
) -> Iterator[np.ndarray]:
    """Yield the tokens, float16 [k, n_tokens, width], of `rows` in batches.

    InputError names the picture whose tokens are no half-precision numbers.
    """
    import torch

    device = next(model.parameters()).device
    for start in range(rows.start, rows.stop, batch_size):
        batch = range(start, min(start + batch_size, rows.stop))
        grey = torch.from_numpy(store.read(batch)).to(device)  # (B, H, W)
        with torch.inference_mode():
            pixels = grey[:, None].expand(-1, 3, -1, -1).float() / 255  # (B, 3, H, W)
            tokens = model(pixels)  # (B, n_tokens, width)
            representable = (tokens.abs() <= _HALF_MAX).flatten(1).all(1)  # False for NaN as well
        if not representable.all():
            image_id = store.image_ids[batch[int(representable.int().argmin())]]
            raise InputError(
                f"image {image_id}: the frozen model gives tokens that are NaN or beyond +-{_HALF_MAX:.0f}, "
                "which half precision cannot hold; check vision.model, or leave out its last blocks"
            )
        yield tokens.half().cpu().numpy()
        done, before = batch.stop - rows.start, start - rows.start
        if 10 * done // len(rows) > 10 * before // len(rows):
            run.say(f"{done} of {len(rows)} pictures")


if __name__ == "__main__":
    run_stage(extract_features, arguments=("dataset", "shard"))
