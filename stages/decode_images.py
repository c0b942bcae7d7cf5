"""decode_images: every kept image -> grey uint8 at the model's size, in memory-mapped parts."""

import hashlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.data import image_decoding as images
from medunifier.data.image_decoding import UnreadableImage, decode_image
from medunifier.data.overlaps import CONTENTS, content_digests
from medunifier.data.parallel import parallel_map
from medunifier.data.preparation.rejects import Reason
from medunifier.runtime.cpu import available_cores
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import write_json
from medunifier.runtime.params import Images, Params
from medunifier.runtime.processes import place, wait_for_all
from medunifier.stage import run_stage
from medunifier.storage.image_shards import PART_ROWS, part_path, write_part
from medunifier.storage.tables import MANIFEST, REJECTED, read_table, write_table
from medunifier.tracking import LocalRun

IMAGES = "pictures"
_BYTES_A_WORKER = 50_000_000  # some seconds of decoding; less is done before another process has started


def decode_images(params: Params, run: LocalRun, dataset: str) -> None:
    """Decode every image of data/prepared/DATASET/manifest.parquet to a grey square of images.size pixels.

    Writes data/images/DATASET: part-*.arrow, rejected.parquet (images that cannot be decoded whole),
    contents.parquet (a digest of each image's grey values), summary.json. Finished parts survive a kill and
    are not decoded again. On several nodes (workflow.launch) each decodes every n-th part, and the first publishes
    them all.
    """
    root = Path(params.datasets[dataset].root)
    manifest = read_table(f"data/prepared/{dataset}/manifest.parquet", MANIFEST)
    parts = list(manifest.iter_slices(PART_ROWS))
    work = work_folder(manifest, root, params.images, run.name)
    workers = min(available_cores(), 1 + manifest["bytes"].sum() // _BYTES_A_WORKER)
    rank, processes = place()
    with parallel_map(workers) as mapped:
        for number, part in list(enumerate(parts))[rank::processes]:
            if not part_path(work / IMAGES, number).exists():
                decode_part(part, root, params.images, mapped, work, number)
            run.log(f"part {number + 1} of {len(parts)}: {len(part)} images")
    wait_for_all()
    if rank > 0:
        return

    rejected = pl.concat([read_table(beside(work, "rejected", n), REJECTED) for n in range(len(parts))])
    digests = pl.concat([read_table(beside(work, "contents", n), CONTENTS) for n in range(len(parts))])
    summary = {
        "dataset": dataset,
        "pictures": len(manifest),
        "decoded": len(manifest) - len(rejected),
        "rejected": dict(rejected.group_by("reason").len().iter_rows()),
        "size": params.images.size,
        "aspect": params.images.aspect,
    }
    if not summary["decoded"]:
        raise InputError(f"{root}: none of {len(manifest)} images can be decoded: {rejected['detail'][0]}")
    write_table(rejected, work / IMAGES / "rejected.parquet", REJECTED)
    write_table(digests, work / IMAGES / "contents.parquet", CONTENTS)
    write_json(work / IMAGES / "summary.json", summary)
    publish(work, Path("data/images") / dataset)
    run.metrics({name: summary[name] for name in ("pictures", "decoded")} | {"rejected": len(rejected)})
    run.log(f"decoded {summary['decoded']} of {len(manifest)} images, rejected {len(rejected)}")


def work_folder(manifest: pl.DataFrame, root: Path, settings: Images, stage: str) -> Path:
    """Where parts wait until all are done: another folder for other images, settings or decoder.

    IMAGES below it is what will be published; beside that lie the rejects and the digests of each part.
    """
    key = hashlib.sha256(f"{root} {settings} {PART_ROWS}".encode())
    key.update(Path(images.__file__).read_bytes())
    for row in manifest.iter_rows():
        key.update(repr(row).encode())
    return Path(os.environ.get("MEDUNIFIER_STATE", ".state")) / stage / key.hexdigest()[:16]


def decode_part(
    part: pl.DataFrame, root: Path, settings: Images, mapped: Callable, work: Path, number: int
) -> None:
    """Decode the images of one part; writes its rejects and digests, then the part itself: it is done."""
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
    write_table(rejected, beside(work, "rejected", number), REJECTED)
    write_table(content_digests(ids, images), beside(work, "contents", number), CONTENTS)
    write_part(part_path(work / IMAGES, number), ids, images, settings.size)


def image_or_problem(path: str, size: int, aspect: str) -> np.ndarray | str:
    """The decoded image, uint8 [size, size], or what is wrong with the file."""
    try:
        return decode_image(path, size, aspect)
    except UnreadableImage as problem:
        return str(problem)


def beside(work: Path, table: str, number: int) -> Path:
    """Where a table of part `number` waits."""
    return work / f"{table}-{number:05d}.parquet"


def publish(work: Path, folder: Path) -> None:
    """Move the finished images to `folder`, at once or, to another disk, as copies that leave the originals
    until all are made; clears the waiting room.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(work / IMAGES, folder)
    shutil.rmtree(work.parent)


if __name__ == "__main__":
    run_stage(decode_images, arguments=("dataset",))
