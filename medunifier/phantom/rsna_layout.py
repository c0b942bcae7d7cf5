"""A phantom copy of the RSNA pneumonia challenge, stage 2.

Files: stage_2_train_labels.csv (a bounding box a row), stage_2_train_images/PATIENT.dcm.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medunifier.phantom.anatomy import MIDLINE
from medunifier.phantom.dicom_files import dicom
from medunifier.phantom.image_files import digest_of, name_of
from medunifier.phantom.single_images import OTHERS, SingleImage, generate_image

FOLDER = "rsna-pneumonia"
PNEUMONIA, NORMAL = 0.4, 0.3  # shares; the rest has another finding
BOX_PIXELS = 1024  # side of the image that boxes refer to, independent of the phantom's size
OPAQUE = 0.35  # a box encloses what is more opaque than this


@dataclass(frozen=True)
class Item:
    """One image to write; `boxes` are (x, y, width, height) in pixels of a 1024 x 1024 image."""

    dcm: bytes
    patient: str
    findings: tuple[str, ...]
    boxes: tuple[tuple[int, int, int, int], ...]


def generate(number: int, seed: int, image_size: int) -> Item:
    """Generate image `number`, of a patient of its own."""
    key = (*b"rsna", seed, number)
    rng = np.random.default_rng(key)
    kind = rng.random()
    other = str(rng.choice([name for name in OTHERS if name != "consolidation"]))
    names = ("pneumonia",) if kind < PNEUMONIA else () if kind < PNEUMONIA + NORMAL else (other,)
    image = generate_image(rng, key, names, image_size)
    digest = digest_of(key)
    content = dicom(image.pixels, digest, name_of(digest), image.view, inverted=False)
    return Item(content, name_of(digest), names, _boxes(image) if "pneumonia" in names else ())


def _boxes(image: SingleImage) -> tuple[tuple[int, int, int, int], ...]:
    """Return a box around the opacity on each side."""
    opaque, middle = image.opacity(BOX_PIXELS) > OPAQUE, round(MIDLINE * BOX_PIXELS)
    boxes: list[tuple[int, int, int, int]] = []
    for left, part in ((0, opaque[:, :middle]), (middle, opaque[:, middle:])):
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        if len(rows):
            x, y = left + int(columns[0]), int(rows[0])
            boxes.append((x, y, int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1))
    return tuple(boxes)


def write(root: Path, items: Iterable[Item], seed: int) -> list[Path]:
    """Write all images and the list of labels below `root`; return the images' paths."""
    folder = root / "stage_2_train_images"
    folder.mkdir(parents=True)
    lines, paths = ["patientId,x,y,width,height,Target"], []
    for item in items:
        path = folder / f"{item.patient}.dcm"
        path.write_bytes(item.dcm)
        paths.append(path)
        lines += [f"{item.patient},{x}.0,{y}.0,{w}.0,{h}.0,1" for x, y, w, h in item.boxes]
        if not item.boxes:
            lines.append(f"{item.patient},,,,,0")
    (root / "stage_2_train_labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths
