"""A phantom copy of the SIIM-ACR pneumothorax challenge.

Files: train-rle.csv (a mask a row), dicom-images-train/STUDY/SERIES/IMAGE.dcm.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medunifier.phantom.dicom_files import dicom, uid
from medunifier.phantom.image_files import digest_of, name_of
from medunifier.phantom.single_images import OTHERS, generate_image

FOLDER = "siim-acr-pneumothorax"
PNEUMOTHORAX, NORMAL, INVERTED = 0.4, 0.3, 0.05  # shares; the rest has another finding
MASK_PIXELS = 1024  # side of the image that run lengths refer to, independent of the phantom's size


@dataclass(frozen=True)
class Item:
    """One image to write; `masks` are run lengths, none without pneumothorax."""

    dcm: bytes
    digest: str
    masks: tuple[str, ...]


def generate(number: int, seed: int, image_size: int) -> Item:
    """Generate image `number`, of a patient of its own."""
    key = (*b"siim", seed, number)
    rng = np.random.default_rng(key)
    kind = rng.random()
    other = str(rng.choice(OTHERS))
    names = ("pneumothorax",) if kind < PNEUMOTHORAX else () if kind < PNEUMOTHORAX + NORMAL else (other,)
    image = generate_image(rng, key, names, image_size)
    digest = digest_of(key)
    content = dicom(image.pixels, digest, name_of(digest), image.view, inverted=rng.random() < INVERTED)
    return Item(content, digest, _masks(image.free_air(MASK_PIXELS)) if "pneumothorax" in names else ())


def _masks(air: np.ndarray) -> tuple[str, ...]:
    """Split the mask into an upper and a lower piece: some images of the data set have several masks, too."""
    rows = np.flatnonzero(air.any(axis=1))
    middle = rows[0] + (rows[-1] - rows[0]) // 2
    upper, lower = air.copy(), air.copy()
    upper[middle:], lower[:middle] = False, False
    return tuple(run_lengths(part) for part in (upper, lower) if part.any())


def run_lengths(mask: np.ndarray) -> str:
    """Encode a mask, bool [H, W], as `gap length gap length ...` in column-major order; gaps since the last run."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])  # start, end, start, end, ...
    return " ".join(map(str, np.diff(edges, prepend=0)))


def write(root: Path, items: Iterable[Item], seed: int) -> list[Path]:
    """Write all images and the list of masks below `root`; return the images' paths."""
    root.mkdir(parents=True)
    lines, paths = ["ImageId, EncodedPixels"], []  # the space is the original's
    for item in items:
        image_id = uid(4, item.digest)
        path = root / "dicom-images-train" / uid(2, item.digest) / uid(3, item.digest) / f"{image_id}.dcm"
        path.parent.mkdir(parents=True)
        path.write_bytes(item.dcm)
        paths.append(path)
        lines += [f"{image_id}, {mask}" for mask in item.masks or ("-1",)]
    (root / "train-rle.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths
