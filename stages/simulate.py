"""Stage `simulate`: draws the phantom radiographs, writes their reports, and seeds the stand-in ViT."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tqdm import tqdm

from medunifier.phantom import chexpert_layout, covidx_layout, rsna_layout, siim_layout
from medunifier.phantom.damage import damage, damage_images
from medunifier.phantom.grid import sheet, study_tiles
from medunifier.phantom.mimic_layout import MimicWriter
from medunifier.phantom.stand_in_vit import write_vit
from medunifier.phantom.studies import Study, make_patient
from medunifier.runtime.cpu import available_cores
from medunifier.runtime.params import Params, Simulate
from medunifier.stage import run_stage
from medunifier.tracking import Run

ROOT = Path("data/simulated")
SHEET = "phantoms.png"  # below ROOT
SHOWN = 10  # images on it
POOL_FROM = 200  # images and patients; below, starting a pool takes longer than it saves
COPIES = {  # a key of simulate.copies -> what draws and writes the phantom in that layout
    "chexpert": chexpert_layout,
    "rsna": rsna_layout,
    "siim_acr": siim_layout,
    "covidx": covidx_layout,
}
README = """\
What `python -m stages.simulate` made, from the seed and `simulate` in params.yaml alone. No patient is shown.

vit/            a small untrained ViT (transformers format) that stands in for downloaded weights
mimic-cxr-jpg/  radiographs and index files in the layout of MIMIC-CXR-JPG 2.0.0
mimic-cxr/      their reports, in the layout of MIMIC-CXR 2.0.0
truth.parquet   what each image of the two shows: severity (0 to 3), side and zone of each finding
phantoms.png    the first of these images at a glance

CheXpert-v1.0-small/, rsna-pneumonia/, siim-acr-pneumothorax/, covidx/
                radiographs in the layouts of these data sets, other phantoms than the above. Boxes and run
                lengths refer to images of 1024 x 1024 pixels, as in the originals. Some COVIDx images are
                images of rsna-pneumonia, as in the originals.

What simulate.patients or simulate.copies has at 0 is not made. A few files are broken or missing on purpose.
"""


def simulate(params: Params, run: Run) -> None:
    """Draw the phantom radiographs, write their reports, and seed the stand-in ViT.

    Reads nothing but parameters: seed, simulate. Writes data/simulated (see the README.md there). With
    simulate.patients and all of simulate.copies 0 only the ViT is made. MLflow is given the first images of the
    MIMIC copy on one sheet; without patients there is none.
    """
    settings = params.simulate
    partial_root = ROOT.with_name(f".{ROOT.name}.partial")
    for folder in (partial_root, ROOT):
        if folder.exists():
            shutil.rmtree(folder)
    partial_root.mkdir(parents=True)
    (partial_root / "README.md").write_text(README, encoding="utf-8")
    write_vit(partial_root / "vit", settings.vit, params.seed)
    copies = {name: count for name, count in vars(settings.copies).items() if count}
    metrics = {"patients": settings.patients} | {f"images_{name}": count for name, count in copies.items()}
    with drawing(settings.patients + sum(copies.values())) as mapped:
        if settings.patients:
            metrics |= write_mimic(mapped, partial_root, settings, params.seed)
        for name, count in copies.items():
            draw = partial(COPIES[name].draw, seed=params.seed, image_size=settings.image_size)
            images = progress(mapped(draw, range(count)), count, f"phantom {name}", "image")
            root = partial_root / COPIES[name].FOLDER
            damage_images(COPIES[name].write(root, images, params.seed), params.seed)
    run.metrics(metrics)
    run.log(", ".join(f"{metrics.get(name, 0)} {name}" for name in ("patients", "studies", "images")))
    run.log(", ".join(f"{count} images as {name}" for name, count in copies.items()) or "no copies")
    os.replace(partial_root, ROOT)
    if settings.patients:
        run.artifact(ROOT / SHEET)


def write_mimic(mapped: Callable, root: Path, settings: Simulate, seed: int) -> dict[str, int]:
    """Draw the patients of the MIMIC copy and write them and their SHEET below `root`; returns the counts."""
    writer = MimicWriter(root, settings.patients, settings.image_size, seed)
    shown = []
    patients = make_patients(mapped, seed, settings.patients, settings.image_size)
    for studies in progress(patients, settings.patients, "phantom patients", "patient"):
        writer.add_patient(studies)
        if len(shown) < SHOWN:
            shown += study_tiles(studies)
    sheet(shown[:SHOWN]).save(root / SHEET, optimize=True)
    writer.write_indexes()
    return writer.counts | damage(writer.images, writer.reports, seed)


def make_patients(mapped: Callable, seed: int, patients: int, image_size: int) -> Iterable[tuple[Study, ...]]:
    """The phantom's patients in order; the same whatever the number of processes that draw them."""
    return mapped(partial(make_patient, seed, image_size=image_size), range(patients))


def progress(items: Iterable, total: int, name: str, unit: str) -> Iterable:
    """`items`, with a line on the terminal that says how many there have been."""
    return tqdm(items, total=total, desc=name, unit=unit, mininterval=1)


@contextmanager
def drawing(items: int) -> Iterator[Callable]:
    """Yield a `map` that keeps its order, over two processes if there are two cores and enough `items`."""
    workers = min(2, available_cores())
    if workers == 1 or items < POOL_FROM:
        yield map
        return
    # Spawned, not forked: the tracker's libraries have threads by now.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield partial(pool.map, chunksize=8)


if __name__ == "__main__":
    run_stage(simulate)
