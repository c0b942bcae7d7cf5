"""Write the phantom data sets: one in the layout of MIMIC-CXR, and copies in the layouts of others."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tqdm import tqdm

from medunifier.data.parallel import parallel_map
from medunifier.phantom import chexpert_layout, covidx_layout, rsna_layout, siim_layout
from medunifier.phantom.damage import damage, damage_images
from medunifier.phantom.grid import study_tiles, tile_grid
from medunifier.phantom.mimic_layout import MimicWriter
from medunifier.phantom.studies import Study, generate_patient
from medunifier.runtime.cpu import available_cores
from medunifier.runtime.params import Simulate

GRID = "phantoms.png"  # below the root: the first GRID_IMAGES images of the MIMIC copy
GRID_IMAGES = 10
POOL_FROM = 200  # images and patients; for fewer, starting a pool takes longer than it saves
COPIES = {  # a key of simulate.copies -> the module that generates and writes a phantom in that layout
    "chexpert": chexpert_layout,
    "rsna": rsna_layout,
    "siim_acr": siim_layout,
    "covidx": covidx_layout,
}
README = """\
What `python -m stages.simulate` made, from the seed and `simulate` in params.yaml alone. No patient is shown.

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


def write_mimic(mapped: Callable, root: Path, settings: Simulate, seed: int) -> dict[str, int]:
    """Generate the patients of the MIMIC copy, write them and GRID below `root`, and return the counts.

    Args:
        mapped: an ordered `map`, over one or several processes.
        root: folder of all phantom data sets.
        settings: number of patients and size of the images.
        seed: of all random choices.
    """
    writer = MimicWriter(root, settings.patients, settings.image_size, seed)
    tiles = []
    patients = generate_patients(mapped, seed, settings.patients, settings.image_size)
    for studies in progress(patients, settings.patients, "phantom patients", "patient"):
        writer.add_patient(studies)
        if len(tiles) < GRID_IMAGES:
            tiles += study_tiles(studies)
    tile_grid(tiles[:GRID_IMAGES]).save(root / GRID, optimize=True)
    writer.write_indexes()
    return writer.counts | damage(writer.images, writer.reports, seed)


def write_copy(name: str, mapped: Callable, root: Path, count: int, settings: Simulate, seed: int) -> None:
    """Generate `count` images in the layout `name` (a key of COPIES), write them below `root`, damage a few."""
    module = COPIES[name]
    generate = partial(module.generate, seed=seed, image_size=settings.image_size)
    items = progress(mapped(generate, range(count)), count, f"phantom {name}", "image")
    damage_images(module.write(root / module.FOLDER, items, seed), seed)


def generate_patients(
    mapped: Callable, seed: int, patients: int, image_size: int
) -> Iterable[tuple[Study, ...]]:
    """Yield the studies of each patient in order; the same for any number of processes."""
    return mapped(partial(generate_patient, seed, image_size=image_size), range(patients))


def progress(items: Iterable, total: int, name: str, unit: str) -> Iterable:
    """Yield `items` and show their number in a line on the terminal."""
    return tqdm(items, total=total, desc=name, unit=unit, mininterval=1)


@contextmanager
def generating(items: int) -> Iterator[Callable]:
    """Yield an ordered `map`, over two processes if there are two cores and enough `items`."""
    workers = min(2, available_cores()) if items >= POOL_FROM else 1
    with parallel_map(workers, chunk=8) as mapped:
        yield mapped
