"""Single phantom images for the data sets that have no reports: who is ill with what, and the film."""

import hashlib
import io
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from medunifier.phantom.anatomy import draw_anatomy
from medunifier.phantom.findings import Finding, draw_device, draw_finding
from medunifier.phantom.frontal import ailing_chest
from medunifier.phantom.reports import Facts
from medunifier.phantom.studies import JPEG_QUALITY, PORTABLE, draw_view

OTHERS = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")


@dataclass(frozen=True)
class Shot:
    """One image: what is true, its view, its grey values (uint8 [size, size]), and what drew it."""

    facts: Facts
    view: str
    film: np.ndarray
    key: tuple[int, ...]

    def has(self, name: str) -> bool:
        """True if the finding `name` is there."""
        return any(finding.name == name for finding in self.facts.findings)

    def shadow(self, size: int) -> np.ndarray:
        """How much of the lungs is opaque (0..1), at `size` pixels: float32 [size, size]."""
        return _enlarge(self._chest().opacity, size)

    def free_air(self, size: int) -> np.ndarray:
        """Where air without lung is: bool [size, size]."""
        return _enlarge(self._chest().free_air, size) > 0.5

    def _chest(self):
        return ailing_chest(self.facts.anatomy, self.facts.findings, list(self.key), self.film.shape[0])


def take_shot(
    rng: np.random.Generator, key: tuple[int, ...], names: tuple[str, ...], size: int, view: str = ""
) -> Shot:
    """An image of a new patient with the findings `names`, each with certainty; `key` seeds the drawing."""
    findings: tuple[Finding, ...] = tuple(replace(draw_finding(rng, name), certain=True) for name in names)
    portable = bool(rng.random() < PORTABLE)
    facts = Facts(draw_anatomy(rng), findings, draw_device(rng, portable), portable)
    view = view or ("AP" if portable else "PA")
    return Shot(facts, view, draw_view(facts, view, list(key), size), key)


def jpeg(film: np.ndarray) -> bytes:
    """The film as a JPG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(film)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def png(film: np.ndarray) -> bytes:
    """The film as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(film)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def digest_of(key: Iterable[int]) -> str:
    """Hexadecimal digits that follow from what drew an image. From its pixels they would not be the same everywhere:
    processors differ in a float's last bit.
    """
    return hashlib.sha256(repr(tuple(key)).encode()).hexdigest()


def name_of(digest: str) -> str:
    """A name of the form that the Kaggle data sets give their files, from a hexadecimal digest."""
    return str(uuid.UUID(digest[:32]))


def _enlarge(values: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR))
