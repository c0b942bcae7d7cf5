"""Reading cached features in shuffled order: `python -m benchmarks.features FOLDER [--images 3000] [--save]`.

Writes synthetic features of the paper's shape (257 x 1408 float16, 723 kB an image) in four shards under FOLDER, then
reads all of them into tensors of 32 images, in turn
* in shuffled order, as training does: `FeatureStore.read` on memory-mapped shards;
* shard after shard, shuffled inside (`pretrain.order: by_shard`);
* sequentially, from the first byte of the files to the last, by plain reads into the tensors (`sequential_reads`)
  and by copying from a memory map (`sequential_map`); the faster of the two is the measure.
Asked: shuffled reading reaches at least 80 % of sequential reading. The files are in the system's cache, read once
before: what is compared is the way of reading, not the disk. Without a cache, a random read of 723 kB costs what the
disk's seek costs on top. `--save` writes benchmarks/results/features-DATE.json; exit code 1: less than asked.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks import records
from medunifier.training.batch_order import permutation
from medunifier.vision.feature_shards import FeatureStore, write_feature_shard

TOKENS, WIDTH, SHARDS, BATCH = 257, 1408, 4, 32
ASKED = 0.8


def write(folder: Path, images: int) -> None:
    """Write shards of random features; complete ones are left as they are."""
    manifest = {"model": "none", "revision": None, "skip_last_blocks": 0, "checksum": ""}
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        ids = [f"{shard}-{i}" for i in range(images // SHARDS)]
        tokens = rng.normal(size=(BATCH, TOKENS, WIDTH)).astype(np.float16)
        batches = (tokens[: min(BATCH, len(ids) - start)] for start in range(0, len(ids), BATCH))
        if not (folder / str(shard) / "manifest.json").exists():
            write_feature_shard(folder / str(shard), ids, batches, manifest)


def sequential_reads(folder: Path) -> Iterator[torch.Tensor]:
    """Yield all bytes of all shards, in order, as tensors of BATCH rows."""
    for shard in range(SHARDS):
        path = folder / str(shard) / "tokens.npy"
        rows, offset = np.load(path, mmap_mode="r").shape[0], np.load(path, mmap_mode="r").offset
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            for start in range(0, rows, BATCH):
                batch = torch.empty(min(BATCH, rows - start), TOKENS, WIDTH, dtype=torch.float16)
                if file.readinto(batch.numpy().data.cast("B")) != batch.nbytes:
                    raise OSError(f"{path}: short read")
                yield batch


def sequential_map(folder: Path) -> Iterator[torch.Tensor]:
    """Yield the same by copies from a memory map."""
    for shard in range(SHARDS):
        tokens = np.load(folder / str(shard) / "tokens.npy", mmap_mode="r")
        for start in range(0, len(tokens), BATCH):
            yield torch.from_numpy(np.array(tokens[start : start + BATCH]))


def in_order(store: FeatureStore, order: np.ndarray) -> Iterator[torch.Tensor]:
    """Yield the rows of `order`, as training reads them."""
    for start in range(0, len(order), BATCH):
        yield torch.from_numpy(store.read(order[start : start + BATCH]))


def gb_per_s(batches: Iterator[torch.Tensor]) -> float:
    """Return GB of tensors per second of processor time: with a warm cache reading waits for nothing else."""
    start, size = time.process_time(), 0
    for batch in batches:
        size += batch.nbytes
    return size / 1e9 / (time.process_time() - start)


def measure(folder: Path, repeats: int) -> dict[str, list[float]]:
    """Measure GB/s of each way, `repeats` times in turn."""
    store = FeatureStore(folder)
    shards = store.piece_of(np.arange(len(store)))
    blocks = [np.flatnonzero(shards == number) for number in range(SHARDS)]
    found: dict[str, list[float]] = {
        name: [] for name in ("sequential_reads", "sequential_map", "shuffled", "by_shard")
    }
    gb_per_s(sequential_reads(folder))  # into the cache
    for epoch in range(repeats):
        found["sequential_reads"].append(gb_per_s(sequential_reads(folder)))
        found["sequential_map"].append(gb_per_s(sequential_map(folder)))
        store = FeatureStore(folder)  # a new map: its pages are not yet this process's
        found["shuffled"].append(gb_per_s(in_order(store, permutation(len(store), 0, epoch))))
        store = FeatureStore(folder)
        found["by_shard"].append(gb_per_s(in_order(store, permutation(len(store), 0, epoch, blocks))))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the features are, or are to be written")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/features-DATE.json")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.images)
    load = os.getloadavg()[0]
    found = measure(arguments.folder, arguments.repeats)
    measures = (found["sequential_reads"], found["sequential_map"])
    share = {
        name: statistics.median(a / max(b) for a, *b in zip(found[name], *measures, strict=True))
        for name in ("shuffled", "by_shard")
    }
    about = {
        "cores": os.cpu_count(),
        "load_before": round(load, 1),
        "images": arguments.images,
        "repeats": arguments.repeats,
        "cache": "warm",
        "seconds": "of processor time",
        **{f"{name}_gb_per_s": round(statistics.median(values), 3) for name, values in found.items()},
        **{f"{name}_share_of_sequential": round(value, 3) for name, value in share.items()},
        "asked_share": ASKED,
    }
    print(json.dumps(about, indent=1))
    if arguments.save:
        records.save("features", "python -m benchmarks.features FOLDER --save", about, ("numpy",))
    return 0 if share["shuffled"] >= ASKED else 1


if __name__ == "__main__":
    sys.exit(main())
