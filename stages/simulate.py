"""Stage `simulate`: draws the phantom radiographs, writes their reports, and seeds the stand-in ViT."""

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from stages.datasets.phantom.damage import damage
from stages.datasets.phantom.mimic_layout import MimicWriter
from stages.datasets.phantom.stand_in_vit import write_vit
from stages.datasets.phantom.studies import Study, make_patient
from stages.entry import available_cores, run_stage
from stages.params import Params
from stages.tracking import Run

ROOT = Path("data/simulated")
POOL_FROM = 200  # patients; below, starting a pool takes longer than it saves
README = """\
What `python -m stages.simulate` made, from the seed and `simulate` in params.yaml alone. No patient is shown.

vit/            a small untrained ViT (transformers format) that stands in for downloaded weights
mimic-cxr-jpg/  radiographs and index files in the layout of MIMIC-CXR-JPG 2.0.0
mimic-cxr/      their reports, in the layout of MIMIC-CXR 2.0.0
truth.parquet   what each picture shows: severity (0 to 3), side and zone of each finding

The last three exist only if simulate.patients is above 0. A few files are broken or missing on purpose.
"""


def simulate(params: Params, run: Run) -> None:
    """Draw the phantom radiographs, write their reports, and seed the stand-in ViT.

    Reads nothing but parameters: seed, simulate. Writes data/simulated (see the README.md there). With
    simulate.patients 0 only the ViT is made.
    """
    settings = params.simulate
    partial_root = ROOT.with_name(f".{ROOT.name}.partial")
    for folder in (partial_root, ROOT):
        if folder.exists():
            shutil.rmtree(folder)
    partial_root.mkdir(parents=True)
    (partial_root / "README.md").write_text(README, encoding="utf-8")
    write_vit(partial_root / "vit", settings.vit, params.seed)
    if settings.patients:
        writer = MimicWriter(partial_root, settings.patients, settings.image_size, params.seed)
        patients = make_patients(params.seed, settings.patients, settings.image_size)
        for studies in tqdm(
            patients, total=settings.patients, desc="phantom patients", unit="patient", mininterval=1
        ):
            writer.add_patient(studies)
        writer.write_indexes()
        counts = writer.counts | damage(writer.images, writer.reports, params.seed)
        run.metrics(counts)
        run.say(f"{counts['patients']} patients, {counts['studies']} studies, {counts['images']} images")
    else:
        run.metrics({"patients": 0})
        run.say("simulate.patients is 0: made the stand-in ViT only")
    os.replace(partial_root, ROOT)


def make_patients(seed: int, patients: int, image_size: int) -> Iterator[tuple[Study, ...]]:
    """The phantom's patients in order; the same whatever the number of processes that draw them."""
    draw = partial(make_patient, seed, image_size=image_size)
    workers = min(2, available_cores())
    if workers == 1 or patients < POOL_FROM:
        yield from map(draw, range(patients))
        return
    # Spawned, not forked: the tracker's libraries have threads by now.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw, range(patients), chunksize=8)


if __name__ == "__main__":
    run_stage(simulate)
