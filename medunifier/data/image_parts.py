"""Decode the images of a data set in parts that survive an interruption, then publish all parts at once."""

import hashlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.data import image_decoding
from medunifier.data.image_decoding import UnreadableImage, decode_image
from medunifier.data.overlaps import CONTENTS, content_digests
from medunifier.data.preparation.rejects import Reason
from medunifier.runtime.params import Images
from medunifier.storage.image_shards import PART_ROWS, part_path, write_part
from medunifier.storage.tables import REJECTED, Schema, read_table, write_table

IMAGES = "images"  # below the work folder: the folder to publish


def work_folder(manifest: pl.DataFrame, root: Path, settings: Images, stage: str) -> Path:
    """Return the folder for finished parts; it differs for other images, settings or decoding code.

    Its subfolder IMAGES will be published. Beside that lie the rejects and the digests of each part.
    """
    key = hashlib.sha256(f"{root} {settings} {PART_ROWS}".encode())
    key.update(Path(image_decoding.__file__).read_bytes())
    for row in manifest.iter_rows():
        key.update(repr(row).encode())
    return Path(os.environ.get("MEDUNIFIER_STATE", ".state")) / stage / key.hexdigest()[:16]


def decode_part(
    part: pl.DataFrame, root: Path, settings: Images, mapped: Callable, work: Path, number: int
) -> None:
    """Decode one part; write its rejects and digests, then its images, whose file marks the part as finished.

    Args:
        part: rows of the manifest.
        root: root folder of the data set.
        settings: size and aspect of the decoded images.
        mapped: an ordered `map`, over one or several processes.
        work: as from `work_folder`.
        number: number of the part.
    """
    paths = [str(root / path) for path in part["image_path"]]
    decode = partial(image_or_problem, size=settings.size, aspect=settings.aspect)
    results = list(mapped(decode, paths))
    is_image = pl.Series([isinstance(result, np.ndarray) for result in results], dtype=pl.Boolean)
    problems = [
        f"{path}: {result}"
        for path, result in zip(part["image_path"], results, strict=True)
        if isinstance(result, str)
    ]
    rejected = part.filter(~is_image).select(
        "image_id",
        "study_id",
        pl.lit(Reason.UNREADABLE_IMAGE.value).alias("reason"),
        pl.Series("detail", problems, pl.String),
    )
    ids = part.filter(is_image)["image_id"]
    images = [result for result in results if isinstance(result, np.ndarray)]
    write_table(rejected, _table_path(work, "rejected", number), REJECTED)
    write_table(content_digests(ids, images), _table_path(work, "contents", number), CONTENTS)
    write_part(part_path(work / IMAGES, number), ids, images, settings.size)


def image_or_problem(path: str, size: int, aspect: str) -> np.ndarray | str:
    """Return the decoded image, uint8 [size, size], or a description of what is wrong with the file."""
    try:
        return decode_image(path, size, aspect)
    except UnreadableImage as problem:
        return str(problem)


def gather_tables(work: Path, parts: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rejects and the digests of all parts."""

    def gather(name: str, schema: Schema) -> pl.DataFrame:
        return pl.concat([read_table(_table_path(work, name, number), schema) for number in range(parts)])

    return gather("rejected", REJECTED), gather("contents", CONTENTS)


def _table_path(work: Path, table: str, number: int) -> Path:
    """Return the path of a table of part `number`."""
    return work / f"{table}-{number:05d}.parquet"


def publish(work: Path, folder: Path) -> None:
    """Replace `folder` by the finished images and delete the work folder.

    On the same disk this is one rename. To another disk the images are copied, and the originals deleted only when
    all copies are complete.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(work / IMAGES, folder)
    shutil.rmtree(work.parent)
