"""Features of the frozen image encoder on disk: float16 shards, memory-mapped.

A shard is a folder with `tokens.npy` [n, n_tokens, width], `image_ids.parquet` and, written last, `manifest.json`: a
shard without its manifest is incomplete and is never read. With `features.mode: online`, where features are computed
on the fly, a shard has no `tokens.npy`, and its manifest says so (`mode`).
"""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import atomic_path, regular_file, write_json
from medunifier.runtime.json_files import read_json_object
from medunifier.storage.mapped_rows import MappedRows
from medunifier.storage.tables import Schema, read_table, write_table

MODES = ("cached", "online")
AGAIN = "run extract_features again"
_SHARD_IDS = Schema("shard", {"image_id": pl.String}, frozenset({"image_id"}))
_SAME_IN_ALL_SHARDS = (
    "model", "revision", "skip_last_blocks", "pixels", "size", "crop", "levels", "preprocessing", "grid",
    "checksum", "mode", "n_tokens", "width",
)  # fmt: skip


def write_feature_shard(
    folder: str | Path, image_ids: Sequence[str], batches: Iterable[np.ndarray], manifest: dict[str, Any]
) -> None:
    """Write one shard of cached features.

    Args:
        folder: data/features/DATASET/SHARD.
        image_ids: of all rows.
        batches: float16 [k, n_tokens, width], in the order of `image_ids`.
        manifest: the encoder, as `FrozenEncoder.record` returns it. Number of images, shape and the SHA-256 of
            `tokens.npy` are added to it.

    Raises:
        ValueError: the batches do not add up to the ids, or differ in type or shape.
    """
    folder = Path(folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    digest = hashlib.sha256()
    written = 0
    shape: tuple[int, ...] | None = None
    # Plain writes instead of a memory map: on a full disk they raise OSError, while a map kills the process.
    with atomic_path(folder / "tokens.npy") as temporary, temporary.open("wb") as file:
        for batch in batches:
            chunk = np.ascontiguousarray(batch).data
            if shape is None:
                shape = batch.shape[1:]
                chunk = _npy_header((len(image_ids), *shape)) + chunk
            if batch.dtype != np.float16 or batch.shape[1:] != shape:
                raise ValueError(
                    f"{folder}: batch is {batch.dtype} {batch.shape}, expected float16 (k, *{shape})"
                )
            file.write(chunk)
            digest.update(chunk)
            written += len(batch)
        if shape is None or written != len(image_ids):
            raise ValueError(f"{folder}: {written} rows of tokens for {len(image_ids)} image ids")
    write_table(pl.DataFrame({"image_id": list(image_ids)}), folder / "image_ids.parquet", _SHARD_IDS)
    found = {"images": written, "n_tokens": shape[0], "width": shape[1], "sha256": digest.hexdigest()}
    write_json(folder / "manifest.json", {**manifest, "mode": "cached", **found})


def write_online_shard(
    folder: str | Path, image_ids: Sequence[str], shape: tuple[int, int], manifest: dict[str, Any]
) -> None:
    """Write a shard without features: its image ids, their shape (n_tokens, width), and the encoder's manifest."""
    folder = Path(folder)
    for name in ("manifest.json", "tokens.npy"):
        (folder / name).unlink(missing_ok=True)
    write_table(pl.DataFrame({"image_id": list(image_ids)}), folder / "image_ids.parquet", _SHARD_IDS)
    found = {"images": len(image_ids), "n_tokens": shape[0], "width": shape[1]}
    write_json(folder / "manifest.json", {**manifest, "mode": "online", **found})


def shard_rows(images: int, shards: Sequence[str], shard: str) -> range:
    """Return the rows of one of the equal, contiguous shards of a data set.

    Args:
        images: number of images of the data set.
        shards: names of all shards.
        shard: name of this one.

    Raises:
        InputError: the shard is unknown, or would be empty.
    """
    if shard not in shards:
        raise InputError(f"no shard {shard!r} in features.shards of params.yaml; it has {', '.join(shards)}")
    number = shards.index(shard)
    rows = range(number * images // len(shards), (number + 1) * images // len(shards))
    if not rows:
        raise InputError(f"features.shards: {len(shards)} shards for {images} images; name fewer shards")
    return rows


def _npy_header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


class FeatureStore(MappedRows):
    """All shards of a folder: `read(rows)` returns float16 [k, n_tokens, width].

    Args:
        folder: data/features/DATASET.

    Raises:
        InputError: there is no shard, a shard is incomplete, shards come from different encoders, or an image id
            appears twice.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.manifests = read_manifests(folder)
        shards = [_open_shard(folder / name, manifest) for name, manifest in self.manifests.items()]
        ids = [image_id for shard_ids, _ in shards for image_id in shard_ids]
        super().__init__(folder, ids, [tokens for _, tokens in shards], stage="extract_features")
        self.n_tokens, self.width = self.pieces[0].shape[1:]


def read_manifests(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Return the manifest of each shard of a folder, by the shard's name.

    Raises:
        InputError: there is no shard, a shard is incomplete, or shards come from different encoders.
    """
    manifests = {}
    for shard in sorted(path for path in Path(folder).glob("*") if path.is_dir()):
        manifests[shard.name] = manifest = read_json_object(shard / "manifest.json", AGAIN)
        if manifest.get("mode") not in MODES:
            raise InputError(
                f"{shard}/manifest.json: mode is {manifest.get('mode')!r}, expected {MODES}; {AGAIN}"
            )
    if not manifests:
        raise InputError(f"{folder}: no shard of features; run extract_features first")
    for key in _SAME_IN_ALL_SHARDS:
        found = {name: manifest.get(key) for name, manifest in manifests.items()}
        if len({json.dumps(value, sort_keys=True) for value in found.values()}) > 1:
            raise InputError(f"{folder}: shards differ in {key}: {found}; run extract_features again")
    return manifests


def _open_shard(shard: Path, manifest: dict[str, Any]) -> tuple[list[str], np.ndarray]:
    """Return image ids and memory-mapped features of one shard; InputError unless they agree with its manifest."""
    ids = read_table(shard / "image_ids.parquet", _SHARD_IDS)["image_id"].to_list()
    try:
        tokens = np.load(regular_file(shard / "tokens.npy", AGAIN), mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{shard}/tokens.npy: cannot be read ({error}); {AGAIN}") from error
    expected = tuple(manifest.get(name) for name in ("images", "n_tokens", "width"))
    if tokens.shape != expected or len(ids) != len(tokens) or tokens.dtype != np.float16:
        raise InputError(
            f"{shard}: tokens are {tokens.dtype} {tokens.shape} for {len(ids)} ids, but manifest.json says "
            f"float16 {expected}; {AGAIN}"
        )
    return ids, tokens
