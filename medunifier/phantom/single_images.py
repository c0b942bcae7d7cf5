"""Single phantom radiographs for the data sets without reports: findings, view and pixels."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from medunifier.phantom.anatomy import draw_anatomy
from medunifier.phantom.chest import Chest
from medunifier.phantom.findings import Finding, draw_device, draw_finding
from medunifier.phantom.frontal import chest_with_findings
from medunifier.phantom.reports import Facts
from medunifier.phantom.studies import PORTABLE, render_view

OTHERS = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")


@dataclass(frozen=True)
class SingleImage:
    """One radiograph of a patient with no other.

    Attributes:
        facts: what the image shows.
        view: AP, PA or LL.
        pixels: uint8 [size, size].
        key: the numbers that seed the image.
    """

    facts: Facts
    view: str
    pixels: np.ndarray
    key: tuple[int, ...]

    def opacity(self, size: int) -> np.ndarray:
        """Return the opacity of the lungs (0..1), float32 [size, size]."""
        return _enlarge(self._chest().opacity, size)

    def free_air(self, size: int) -> np.ndarray:
        """Return where there is air without lung, bool [size, size]."""
        return _enlarge(self._chest().free_air, size) > 0.5

    def _chest(self) -> Chest:
        """Return the maps that the image was rendered from."""
        size = self.pixels.shape[0]
        return chest_with_findings(self.facts.anatomy, self.facts.findings, list(self.key), size)


def generate_image(
    rng: np.random.Generator, key: tuple[int, ...], names: tuple[str, ...], size: int, view: str = ""
) -> SingleImage:
    """Generate an image of a new patient.

    Args:
        rng: draws patient, device and the properties of the findings.
        key: seeds the rendering.
        names: names of the findings, none of them uncertain.
        size: height and width in pixels.
        view: AP, PA or LL; by default PA, or AP for a portable image.
    """
    findings: tuple[Finding, ...] = tuple(replace(draw_finding(rng, name), certain=True) for name in names)
    portable = bool(rng.random() < PORTABLE)
    facts = Facts(draw_anatomy(rng), findings, draw_device(rng, portable), portable)
    view = view or ("AP" if portable else "PA")
    return SingleImage(facts, view, render_view(facts, view, list(key), size), key)


def _enlarge(values: np.ndarray, size: int) -> np.ndarray:
    """Resample a float32 map to [size, size]."""
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR))
