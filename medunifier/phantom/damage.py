"""Damage as after a broken download: truncated files, missing files, and a report in another encoding."""

from collections import Counter
from pathlib import Path

import numpy as np

TRUNCATED, LOST_IMAGES, LOST_REPORTS = 0.003, 0.002, 0.0012  # shares of all
SPARED = 20  # fewer files are not damaged; of more, at least one of each kind is
KEPT_BYTES = 0.4  # of a truncated file


def damage(images: Path, reports: Path, seed: int) -> Counter:
    """Truncate and delete a few files below the two roots and recode one report; return the counts.

    Index files and checksums stay as they are, as after a broken download.
    """
    rng = np.random.default_rng([*b"damage", seed])
    files, texts = sorted(images.glob("files/*/*/*/*.jpg")), sorted(reports.glob("files/*/*/*.txt"))
    truncated, lost = _few(len(files), TRUNCATED), _few(len(files), LOST_IMAGES)
    chosen = [files[index] for index in rng.choice(len(files), truncated + lost, replace=False)]
    for path in chosen[:truncated]:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * KEPT_BYTES)])
    for path in chosen[truncated:]:
        path.unlink()
    lost_texts = _few(len(texts), LOST_REPORTS)
    order = [texts[index] for index in rng.permutation(len(texts))]
    for path in order[:lost_texts]:
        path.unlink()
    recoded = _recode_one(order[lost_texts:]) if lost_texts else 0
    return Counter(
        images_truncated=truncated, images_missing=lost, reports_missing=lost_texts, reports_latin1=recoded
    )


def damage_images(images: list[Path], seed: int) -> None:
    """Truncate one of many images and delete another, whatever their format."""
    if len(images) < SPARED:
        return
    # This key is part of the phantom: another one would damage other files.
    rng = np.random.default_rng([*b"pictures", seed])
    cut, lost = (images[index] for index in rng.choice(len(images), 2, replace=False))
    content = cut.read_bytes()
    cut.write_bytes(content[: int(len(content) * KEPT_BYTES)])
    lost.unlink()


def _few(total: int, share: float) -> int:
    """Return how many of `total` files are damaged."""
    return max(1, round(total * share)) if total >= SPARED else 0


def _recode_one(texts: list[Path]) -> int:
    """Add a temperature to the first report with a fever, in Latin-1, whose degree sign is not valid UTF-8."""
    for path in texts:
        text = path.read_text(encoding="utf-8")
        if "with fever" in text:
            path.write_bytes(text.replace("with fever", "with fever of 39 °C", 1).encode("latin-1"))
            return 1
    return 0
