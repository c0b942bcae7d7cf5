"""A phantom RSNA pneumonia challenge, stage 2: stage_2_train_labels.csv, stage_2_train_images/PATIENT.dcm."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medunifier.phantom.anatomy import MIDLINE
from medunifier.phantom.dicom_files import dicom
from medunifier.phantom.shots import OTHERS, Shot, digest_of, name_of, take_shot

FOLDER = "rsna-pneumonia"
PNEUMONIA, NORMAL = 0.4, 0.3  # shares; the rest has another finding
BOX_PIXELS = 1024  # side of the image that boxes refer to, whatever the phantom's own size is
OPAQUE = 0.35  # a box holds what is more opaque than this


@dataclass(frozen=True)
class Item:
    """One image on its way to disk; `boxes` are (x, y, width, height) in pixels of a 1024 x 1024 image."""

    dcm: bytes
    patient: str
    findings: tuple[str, ...]
    boxes: tuple[tuple[int, int, int, int], ...]


def draw(number: int, seed: int, image_size: int) -> Item:
    """Image `number`, of a patient of its own."""
    key = (*b"rsna", seed, number)
    rng = np.random.default_rng(key)
    kind = rng.random()
    other = str(rng.choice([name for name in OTHERS if name != "consolidation"]))
    names = ("pneumonia",) if kind < PNEUMONIA else () if kind < PNEUMONIA + NORMAL else (other,)
    shot = take_shot(rng, key, names, image_size)
    digest = digest_of(key)
    content = dicom(shot.film, digest, name_of(digest), shot.view, inverted=False)
    return Item(content, name_of(digest), names, _boxes(shot) if "pneumonia" in names else ())


def _boxes(shot: Shot) -> tuple[tuple[int, int, int, int], ...]:
    """A box around the shadow on each side."""
    shadow, middle = shot.shadow(BOX_PIXELS) > OPAQUE, round(MIDLINE * BOX_PIXELS)
    boxes = []
    for left, part in ((0, shadow[:, :middle]), (middle, shadow[:, middle:])):
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        if len(rows):
            box = left + columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
            boxes.append(tuple(map(int, box)))
    return tuple(boxes)


def write(root: Path, items: Iterable[Item], seed: int) -> list[Path]:
    """Write all images and the list of labels below `root`; returns the images' paths."""
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
