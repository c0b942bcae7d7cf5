"""A chest in the making: the maps that lesions alter before the image is put together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medunifier.phantom import anatomy as body
from medunifier.phantom.anatomy import MIDLINE, SIDES, Anatomy
from medunifier.phantom.drawing import Frame, Points, fill


@dataclass
class Chest:
    """Maps are float32 [size, size]; x and y are the body coordinates of the pixels."""

    anatomy: Anatomy
    frame: Frame
    raised: dict[str, float]  # side -> lift of its hemidiaphragm
    outlines: dict[str, Points]  # side -> outline of the lung
    x: np.ndarray
    y: np.ndarray
    lungs: np.ndarray  # 1 inside
    opacity: np.ndarray  # 0: as airy as healthy lung, 1: as dense as soft tissue
    lines: np.ndarray  # brightness added inside the lungs
    free_air: np.ndarray  # 1: air without lung in it, so neither vessels nor texture
    fluid: np.ndarray  # 1: fluid, which hides the ribs
    vessel_gain: float = 1.0
    hilum_gain: float = 1.0

    @classmethod
    def empty(cls, anatomy: Anatomy, frame: Frame, raised: dict[str, float]) -> Chest:
        """Healthy lungs over hemidiaphragms lifted by `raised`."""
        x, y = frame.grid()
        outlines = {side: body.lung_outline(anatomy, side, raised[side]) for side in SIDES}
        lungs = fill(frame, list(outlines.values()), 0.0045)
        maps = [np.zeros((frame.size, frame.size), dtype=np.float32) for _ in range(4)]
        return cls(anatomy, frame, raised, outlines, x, y, lungs, *maps)

    def cover(self, opacity: np.ndarray, side: str | None = None) -> None:
        """Lay a shadow (0..1) over those present, on one side of the midline only if `side` is given."""
        if side is not None:
            opacity = opacity * ((self.x - np.float32(MIDLINE)) * body.outward(side) > 0)
        self.opacity = 1 - (1 - self.opacity) * (1 - np.clip(opacity, 0, 1))

    def dome(self, side: str) -> float:
        """Y of the top of a hemidiaphragm."""
        return body.dome_top(self.anatomy, side, self.raised[side])
