"""Single measurements for benchmarks/datasets.py, each started in a process of its own; prints JSON.

Helper processes import this module too before they begin. So each function imports what it alone needs.
"""

import contextlib
import hashlib
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from medunifier.data.layouts import mimic_cxr
from medunifier.runtime.params import Dataset, Params, load_params

PRESET = Path(__file__).resolve().parents[1] / "workflow" / "presets" / "paper.yaml"
NAME = "mimic-cxr"
SIZE = 224


def settings(root: str, reports: str | None = None) -> tuple[Params, Dataset]:
    """Return the paper's parameters with the copy as root, and a benchmark subset small enough for it."""
    params = load_params(PRESET)
    dataset = params.datasets[NAME].replace(root=root, reports=reports)
    dataset = dataset.replace(benchmark=dataset.benchmark.replace(per_class=20))
    return params.replace(datasets={NAME: dataset}), dataset


def prepare(root: str) -> dict:
    """Run the stage. `sections`: its seconds for reading and parsing reports."""
    import stages.prepare
    from medunifier.tracking import LocalRun

    params, _ = settings(root)
    read_reports, sections = mimic_cxr.read_reports, []

    def timed(*arguments):
        started = time.perf_counter()
        result = read_reports(*arguments)
        sections.append(time.perf_counter() - started)
        return result

    mimic_cxr.read_reports = timed
    used = [0]
    threading.Thread(target=watch_memory, args=(used,), daemon=True).start()
    started = time.perf_counter()
    stages.prepare.prepare(params, LocalRun(f"prepare@{NAME}", "metrics"), NAME)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "sections": sections[0], "peak_gb": max(used) / 1e9}


def watch_memory(used: list[int]) -> None:
    """Add to `used`, ten times a second, the resident bytes of this process and its helpers together."""
    import psutil

    this = psutil.Process()
    while True:
        total = this.memory_info().rss
        for helper in this.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += helper.memory_info().rss
        used.append(total)
        time.sleep(0.1)


def studies(root: str) -> pl.DataFrame:
    """Return `patient_id`, `study_id` of every study, in the order of the index."""
    names = {"subject_id": "patient_id", "study_id": "study_id"}
    frame = pl.read_csv(
        Path(root) / "mimic-cxr-2.0.0-metadata.csv.gz", columns=list(names), infer_schema=False
    )
    return frame.rename(names).unique(maintain_order=True)


def sections(reports: str) -> dict:
    """Run the layout's function for every study of a copy; `reports` is its folder or its zip file."""
    root = reports if Path(reports).is_dir() else str(Path(reports).parent)
    listed = studies(root)
    _, dataset = settings(root, reports)
    started = time.perf_counter()
    rows = mimic_cxr.read_reports(dataset, listed).rows
    seconds = time.perf_counter() - started
    found = rows.filter(pl.col("reason").is_null())
    return {"seconds": seconds, "digest": digest(found.drop("reason", "detail").iter_rows())}


def plain_sections(root: str) -> dict:
    """Read in one process, file by file, line by line."""
    from tests.support.slow_sections import slow_report

    listed = studies(root)
    started = time.perf_counter()
    found = []
    for patient, study in listed.iter_rows():
        try:
            with open(f"{root}/files/p{patient[:2]}/p{patient}/s{study}.txt", encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            continue
        found.append((study, *slow_report(text, study)))
    return {"seconds": time.perf_counter() - started, "digest": digest(found)}


def digest(rows: Iterable[tuple]) -> str:
    """Return the SHA-256 over rows: results are equal exactly if their digests are."""
    hashed = hashlib.sha256()
    for row in rows:
        hashed.update(repr(tuple(row)).encode())
    return hashed.hexdigest()


def decode_images(folder: str, count: str) -> dict:
    """Run the stage, from its table of files to the parts in place."""
    import stages.decode_images
    from medunifier.storage.tables import MANIFEST, write_table
    from medunifier.tracking import LocalRun

    names = sorted(path.name for path in Path(folder).iterdir())[: int(count)]
    sizes = [(Path(folder) / name).stat().st_size for name in names]
    columns = {"image_id": names, "study_id": names, "image_path": names, "bytes": sizes}
    manifest = pl.DataFrame({**columns, "sha256": [None] * len(names)}, schema=dict(MANIFEST.columns))
    write_table(manifest, f"data/prepared/{NAME}/manifest.parquet", MANIFEST)
    params, _ = settings(folder)
    started = time.perf_counter()
    stages.decode_images.decode_images(params, LocalRun(f"decode_images@{NAME}", "metrics"), NAME)
    return {"seconds": time.perf_counter() - started}


def bare_decoding(folder: str, count: str, cores: str, margin: str) -> dict:
    """Time libjpeg's scaled decoding and Pillow's resizing, without output, from when every process is ready."""
    names = sorted(str(path) for path in Path(folder).iterdir())[: int(count)]
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(int(cores) + 1)
    processes = [
        context.Process(target=decode_barely, args=(names[start :: int(cores)], int(margin), ready))
        for start in range(int(cores))
    ]
    for process in processes:
        process.start()
    ready.wait()
    started = time.perf_counter()
    for process in processes:
        process.join()
    return {"seconds": time.perf_counter() - started}


def decode_barely(paths: list[str], margin: int, ready) -> None:
    """Decode each file at libjpeg's smallest scale of at least `margin` times the size, then resize to the size."""
    import numpy as np
    from PIL import Image

    ready.wait()
    for path in paths:
        with Image.open(path) as image:
            image.draft("L", (margin * SIZE, margin * SIZE))
            np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
