"""Decode the images of a data set in parts that survive an interruption, then publish all parts at once."""

import hashlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl

from medunifier.data import dicom_decoding, grey_values, image_content, image_decoding
from medunifier.data.image_content import TooLargeImage, UnreadableImage, WrongChecksum
from medunifier.data.image_decoding import DecodedImage, decode_file
from medunifier.data.overlaps import CONTENTS, content_digests
from medunifier.data.preparation.rejects import Reason
from medunifier.runtime.params import Images
from medunifier.storage.image_shards import PART_ROWS, part_path, write_part
from medunifier.storage.tables import REJECTED, Schema, read_table, write_table

IMAGES = "images"  # below the work folder: the folder to publish
# What was found about images that were decoded, one row for each remark.
NOTES = Schema("notes", {"image_id": pl.String, "note": pl.String}, frozenset({"image_id", "note"}))
_DECODING = (image_decoding, image_content, dicom_decoding, grey_values)
_REASONS = {TooLargeImage: Reason.TOO_LARGE_IMAGE, WrongChecksum: Reason.WRONG_CHECKSUM}


def work_folder(manifest: pl.DataFrame, root: Path, settings: Images, stage: str) -> Path:
    """Return the folder for finished parts; it differs for other images, settings or decoding code.

    Its subfolder IMAGES will be published. Beside that lie the rejects and the digests of each part.
    """
    key = hashlib.sha256(f"{root} {settings} {PART_ROWS}".encode())
    for module in _DECODING:
        key.update(Path(str(module.__file__)).read_bytes())
    for row in manifest.iter_rows():
        key.update(repr(row).encode())
    return Path(os.environ.get("MEDUNIFIER_STATE", ".state")) / stage / key.hexdigest()[:16]


def decode_part(
    part: pl.DataFrame, root: Path, settings: Images, mapped: Callable, work: Path, number: int
) -> None:
    """Decode one part; write its tables, then its images, whose file marks the part as finished.

    Args:
        part: rows of the manifest.
        root: root folder of the data set.
        settings: how images are decoded and verified.
        mapped: an ordered `map`, over one or several processes.
        work: as from `work_folder`.
        number: number of the part.
    """
    listed = part["sha256"] if settings.verify == "listed" else [None] * len(part)
    files = [(str(root / path), sha256) for path, sha256 in zip(part["image_path"], listed, strict=True)]
    results = list(mapped(partial(image_or_problem, settings=settings), files))
    is_image = pl.Series([isinstance(result, DecodedImage) for result in results], dtype=pl.Boolean)
    problems = [result for result in results if not isinstance(result, DecodedImage)]
    bad = part.filter(~is_image)
    rejected = bad.select(
        "image_id",
        "study_id",
        pl.Series("reason", [reason.value for reason, _ in problems], pl.String),
        pl.format(
            "{}: {}", "image_path", pl.Series("detail", [text for _, text in problems], pl.String)
        ).alias("detail"),
    )
    ids = part.filter(is_image)["image_id"]
    decoded = [result for result in results if isinstance(result, DecodedImage)]
    notes = [(name, note) for name, image in zip(ids, decoded, strict=True) for note in image.notes]
    images = [image.pixels for image in decoded]
    write_table(rejected, _table_path(work, "rejected", number), REJECTED)
    write_table(content_digests(ids, images), _table_path(work, "contents", number), CONTENTS)
    write_table(
        pl.DataFrame(notes, dict(NOTES.columns), orient="row"), _table_path(work, "notes", number), NOTES
    )
    write_part(part_path(work / IMAGES, number), ids, images, settings.size)


def image_or_problem(file: tuple[str, str | None], settings: Images) -> DecodedImage | tuple[Reason, str]:
    """Return a decoded image with its notes, or the reason to reject the file and a description.

    Args:
        file: path and listed SHA-256 (None: not to be compared).
        settings: how images are decoded.
    """
    path, sha256 = file
    try:
        return decode_file(
            path,
            settings.size,
            settings.aspect,
            bits=settings.bits,
            max_megapixels=settings.max_megapixels,
            sha256=sha256,
        )
    except UnreadableImage as problem:
        return _REASONS.get(type(problem), Reason.UNREADABLE_IMAGE), str(problem)


def gather_tables(work: Path, parts: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return the rejects, the digests and the notes of all parts."""

    def gather(name: str, schema: Schema) -> pl.DataFrame:
        return pl.concat([read_table(_table_path(work, name, number), schema) for number in range(parts)])

    return gather("rejected", REJECTED), gather("contents", CONTENTS), gather("notes", NOTES)


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
