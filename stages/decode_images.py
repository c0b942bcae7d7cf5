"""decode_images: every kept image -> grey uint8 at the model's size, in memory-mapped parts."""

from pathlib import Path

import polars as pl

from medunifier.data.image_parts import IMAGES, NOTES, decode_part, gather_tables, publish, work_folder
from medunifier.data.overlaps import CONTENTS
from medunifier.data.parallel import parallel_map
from medunifier.runtime.cpu import available_cores
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import write_json
from medunifier.runtime.params import Images, Params
from medunifier.runtime.processes import place, wait_for_all
from medunifier.stage import run_stage
from medunifier.storage.image_shards import PART_ROWS, part_path
from medunifier.storage.tables import MANIFEST, REJECTED, read_table, write_table
from medunifier.tracking import LocalRun

_BYTES_A_WORKER = 50_000_000  # some seconds of decoding; less is done before another process has started


def decode_images(params: Params, run: LocalRun, dataset: str) -> None:
    """Decode every image of data/prepared/DATASET/manifest.parquet to a grey square of images.size pixels.

    Writes data/images/DATASET: part-*.arrow, rejected.parquet (images that cannot be decoded completely, are too
    large or have another checksum than listed), contents.parquet (a digest of each image's grey values),
    notes.parquet (fewer bits used than declared, warnings of decoders), summary.json. Finished parts survive a
    kill and are not decoded again. On n nodes (workflow.launch) each decodes every n-th part, and the first
    publishes them all.
    """
    root = Path(params.datasets[dataset].root)
    manifest = read_table(f"data/prepared/{dataset}/manifest.parquet", MANIFEST)
    parts = list(manifest.iter_slices(PART_ROWS))
    work = work_folder(manifest, root, params.images, run.name)
    workers = min(available_cores(), 1 + int(manifest["bytes"].sum()) // _BYTES_A_WORKER)
    rank, processes = place()
    with parallel_map(workers) as mapped:
        for number, part in list(enumerate(parts))[rank::processes]:
            if not part_path(work / IMAGES, number).exists():
                decode_part(part, root, params.images, mapped, work, number)
            run.log(f"part {number + 1} of {len(parts)}: {len(part)} images")
    wait_for_all()
    if rank > 0:
        return

    rejected, digests, notes = gather_tables(work, len(parts))
    summary = {
        "dataset": dataset,
        "pictures": len(manifest),
        "decoded": len(manifest) - len(rejected),
        "rejected": dict(rejected.group_by("reason").len().iter_rows()),
        "size": params.images.size,
        "aspect": params.images.aspect,
        "bits": params.images.bits,
        "verified": verified(manifest, params.images),
        "notes": dict(notes.group_by("note").len().sort("note").iter_rows()),
    }
    if not summary["decoded"]:
        raise InputError(f"{root}: none of {len(manifest)} images can be decoded: {rejected['detail'][0]}")
    write_table(rejected, work / IMAGES / "rejected.parquet", REJECTED)
    write_table(digests, work / IMAGES / "contents.parquet", CONTENTS)
    write_table(notes, work / IMAGES / "notes.parquet", NOTES)
    write_json(work / IMAGES / "summary.json", summary)
    publish(work, Path("data/images") / dataset)
    run.metrics({name: summary[name] for name in ("pictures", "decoded")} | {"rejected": len(rejected)})
    for note, number in summary["notes"].items():
        run.log(f"{number} images: {note}")
    run.log(f"decoded {summary['decoded']} of {len(manifest)} images, rejected {len(rejected)}")


def verified(manifest: pl.DataFrame, settings: Images) -> int:
    """Return for how many images a listed checksum was compared."""
    return manifest["sha256"].count() if settings.verify == "listed" else 0


if __name__ == "__main__":
    run_stage(decode_images, arguments=("dataset",))
