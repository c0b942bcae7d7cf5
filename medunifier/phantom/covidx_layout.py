"""A phantom copy of COVIDx (Wang et al. 2020, COVID-Net), which shares images with the RSNA copy, as the originals do.

Files: labels/{train,test}_COVIDx9A.txt (three classes), train/, test/.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medunifier.phantom import rsna_layout
from medunifier.phantom.dicom_files import pixels
from medunifier.phantom.image_files import digest_of, jpeg, name_of, png
from medunifier.phantom.single_images import generate_image

FOLDER = "covidx"
LIST = "labels/{}_COVIDx9A.txt"
CLASSES = ("normal", "pneumonia", "COVID-19")
TEST = 0.2  # share of the images in the test list
RSNA_EVERY = 6  # of the normal and pneumonia images, one in so many is from the RSNA copy


@dataclass(frozen=True)
class Item:
    """One image to write; `patient` is known for images from RSNA."""

    content: bytes
    suffix: str
    kind: str
    source: str
    patient: str | None


def generate(number: int, seed: int, image_size: int) -> Item:
    """Generate image `number`; an image from RSNA has the pixels of the DICOM file, saved as PNG."""
    kind = CLASSES[number % 3]
    if number % 3 != 2 and number // 3 % RSNA_EVERY == 0:
        item = rsna_layout.generate(number, seed, image_size)
        if item.findings in ((), ("pneumonia",)):
            kind = "pneumonia" if item.findings else "normal"
            return Item(png(pixels(item.dcm)), ".png", kind, "rsna", item.patient)
    key = (*b"covidx", seed, number)
    rng = np.random.default_rng(key)
    lobar = str(rng.choice(("consolidation", "pneumonia")))
    image = generate_image(
        rng, key, {"normal": (), "pneumonia": (lobar,), "COVID-19": ("covid_19",)}[kind], image_size
    )
    if kind == "COVID-19":
        return Item(jpeg(image.pixels), ".jpg", kind, "cohen", None)
    return Item(png(image.pixels), ".png", kind, "sirm", None)


def write(root: Path, items: Iterable[Item], seed: int) -> list[Path]:
    """Write all images and both lists below `root`; return the images' paths.

    As in the real lists, a few rows have no source, and a few file names contain a space.
    """
    rng = np.random.default_rng([*b"covidx", seed])
    lines: dict[str, list[str]] = {"train": [], "test": []}
    paths = []
    (root / "labels").mkdir(parents=True)
    for number, item in enumerate(items):
        digest = digest_of((*b"covidx", seed, number))
        name = item.patient or (f"{digest[:8]} {digest[8:12]}" if number % 50 == 8 else name_of(digest))
        split = "test" if rng.random() < TEST else "train"
        path = root / split / f"{name}{item.suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(item.content)
        paths.append(path)
        row = f"{item.patient or int(digest[:8], 16)} {path.name} {item.kind}"
        lines[split].append(row if number % 50 == 11 else f"{row} {item.source}")
    for split, listed in lines.items():
        (root / LIST.format(split)).write_text("\n".join(listed) + "\n", encoding="utf-8")
    return paths
