"""Stage extract_features: encode every image once with the frozen encoder; later stages read its features.

With `features.mode: online` no feature is stored: the stage records which encoder is to encode which images.
"""

from pathlib import Path

import torch

from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.image_shards import ImageStore
from medunifier.tracking import LocalRun
from medunifier.vision.feature_shards import shard_rows, write_feature_shard, write_online_shard
from medunifier.vision.frozen_encoder import load_vision
from medunifier.vision.image_features import encode_images, encode_store


def extract_features(params: Params, run: LocalRun, dataset: str, shard: str) -> None:
    """Encode one of the equal, contiguous parts of data/images/DATASET that features.shards names.

    Writes data/features/DATASET/SHARD: tokens.npy (float16 [n, n_tokens, width]; not where `features.mode` is
    `online`), image_ids.parquet, manifest.json.
    """
    store = ImageStore(Path("data/images") / dataset)
    rows = shard_rows(len(store), [str(name) for name in params.features.shards], shard)
    settings = params.vision
    encoder = load_vision(**settings.choice)
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    manifest = encoder.record()
    run.log(
        f"{settings.source} reads images of {store.height} x {store.width} so: {manifest['preprocessing']}"
    )
    if max(encoder.preprocessing.resized) > min(store.height, store.width):
        run.log("images are enlarged for this encoder: images.size could be as large as it reads")
    image_ids, folder = store.image_ids[rows.start : rows.stop], Path("data/features") / dataset / shard
    if params.features.mode == "online":
        # one image shows the shape of the features, and that the encoder works
        first = encode_images(encoder, store.read(rows[:1]), image_ids)
        write_online_shard(folder, image_ids, first.shape[1:], manifest)
    else:
        features = encode_store(store, rows, encoder, params.features.batch_size, run.log)
        write_feature_shard(folder, image_ids, features, manifest)
    run.metrics({"images": len(rows)})


if __name__ == "__main__":
    run_stage(extract_features, arguments=("dataset", "shard"))
