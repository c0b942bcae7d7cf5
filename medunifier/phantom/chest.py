"""The pixel maps of a frontal chest that findings modify before the image is composed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medunifier.phantom import anatomy as body
from medunifier.phantom.anatomy import MIDLINE, SIDES, Anatomy
from medunifier.phantom.shapes import Frame, Points, fill


@dataclass
class Chest:
    """Maps are float32 [size, size]; `x` and `y` are the body coordinates of the pixels."""

    anatomy: Anatomy
    frame: Frame
    raised: dict[str, float]  # side -> lift of its hemidiaphragm
    outlines: dict[str, Points]  # side -> outline of the lung
    x: np.ndarray
    y: np.ndarray
    lungs: np.ndarray  # 1 inside
    opacity: np.ndarray  # 0: as transparent as healthy lung, 1: as dense as soft tissue
    lines: np.ndarray  # brightness added inside the lungs
    free_air: np.ndarray  # 1: air without lung, so without vessels and texture
    fluid: np.ndarray  # 1: fluid, which hides the ribs
    vessel_gain: float = 1.0
    hilum_gain: float = 1.0

    @classmethod
    def healthy(cls, anatomy: Anatomy, frame: Frame, raised: dict[str, float]) -> Chest:
        """Return healthy lungs above hemidiaphragms lifted by `raised`."""
        x, y = frame.grid()
        outlines = {side: body.lung_outline(anatomy, side, raised[side]) for side in SIDES}
        lungs = fill(frame, list(outlines.values()), 0.0045)
        opacity, lines, free_air, fluid = np.zeros((4, frame.size, frame.size), dtype=np.float32)
        return cls(anatomy, frame, raised, outlines, x, y, lungs, opacity, lines, free_air, fluid)

    def add_opacity(self, opacity: np.ndarray, side: str | None = None) -> None:
        """Combine an opacity (0..1) with those present, if `side` is given only on that side of the midline."""
        if side is not None:
            opacity = opacity * ((self.x - np.float32(MIDLINE)) * body.outward(side) > 0)
        self.opacity = 1 - (1 - self.opacity) * (1 - np.clip(opacity, 0, 1))

    def dome(self, side: str) -> float:
        """Return y of the top of a hemidiaphragm."""
        return body.dome_top(self.anatomy, side, self.raised[side])
