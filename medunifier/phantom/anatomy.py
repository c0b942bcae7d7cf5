"""The anatomy of a phantom patient, constant over all studies, and the outlines that follow from it.

Outlines are in the body frame of `shapes`. Left and right are the patient's, as on any radiograph: the patient's
right lung is on the left of the image.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medunifier.phantom.shapes import Points, smooth_outline, smooth_path

SIDES = ("right", "left")
MIDLINE = 0.5
APEX = 0.10  # y of the lung apices
VOLUMES = {"low": 0.685, "normal": 0.735, "high": 0.785}  # y of the domes' top at rest


@dataclass(frozen=True)
class Anatomy:
    """One patient. Lengths are fractions of the image's side."""

    half_width: float  # midline to the lateral wall of a lung
    volume: str  # a key of VOLUMES
    dome: float  # y of the top of the right hemidiaphragm
    heart_ratio: float  # heart width / thorax width, without cardiomegaly
    tortuous_aorta: bool
    scoliosis: float  # sideways bow of the spine; 0: straight
    rib_gap: float
    breasts: float  # strength of the breast shadows; 0: none
    gastric_bubble: float  # radius; 0: none
    fat: float  # thickness of the soft tissue, 0..1


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a patient from the phantom's population."""
    volume = str(rng.choice(("low", "normal", "high"), p=(0.35, 0.30, 0.35)))
    bow = float(rng.choice((-1.0, 1.0)) * rng.uniform(0.022, 0.032))
    return Anatomy(
        half_width=float(rng.uniform(0.355, 0.39)),
        volume=volume,
        dome=VOLUMES[volume] + float(rng.uniform(-0.012, 0.012)),
        heart_ratio=float(rng.uniform(0.41, 0.46)),
        tortuous_aorta=bool(rng.random() < 0.4),
        scoliosis=bow if rng.random() < 0.3 else 0.0,
        rib_gap=float(rng.uniform(0.068, 0.076)),
        breasts=float(rng.uniform(0.4, 1.0)) if rng.random() < 0.45 else 0.0,
        gastric_bubble=float(rng.uniform(0.035, 0.05)) if rng.random() < 0.5 else 0.0,
        fat=float(rng.uniform(0.0, 1.0)),
    )


def outward(side: str) -> int:
    """Return the sign of x from the midline to the lateral wall of `side`."""
    return -1 if side == "right" else 1


def place(side: str, points: ArrayLike) -> Points:
    """Return points (distance from the midline, y) [n, 2] of one side in the body frame."""
    distance, y = np.asarray(points, dtype=np.float64).T
    return np.stack([MIDLINE + outward(side) * distance, y], axis=1)


def dome_top(anatomy: Anatomy, side: str, raised: float = 0.0) -> float:
    """Return y of the top of a hemidiaphragm; the left one is a little lower, `raised` lifts it."""
    return anatomy.dome + (0.018 if side == "left" else 0.0) - raised


def lung_outline(anatomy: Anatomy, side: str, raised: float = 0.0) -> Points:
    """Return the closed outline of one lung [n, 2], down to the hemidiaphragm and the costophrenic angle."""
    wall, dome = anatomy.half_width, dome_top(anatomy, side, raised)
    flat = {"low": 1.1, "normal": 1.0, "high": 0.6}[anatomy.volume]
    angle = (wall * 0.99, dome + 0.085 * flat)
    medial = (0.06, dome + 0.045 * flat)
    height = dome - APEX
    controls = [
        (0.150, APEX),
        (wall * 0.62, APEX + 0.06 * height),
        (wall * 0.81, APEX + 0.22 * height),
        (wall * 0.94, APEX + 0.50 * height),
        (wall * 0.995, APEX + 0.80 * height),
        (wall, dome + 0.02),
        angle,
        angle,
        (wall * 0.86, dome + 0.022 * flat),
        (wall * 0.58, dome),
        (wall * 0.36, dome + 0.010 * flat),
        medial,
        medial,
        (0.050, APEX + 0.70 * height),
        (0.050, APEX + 0.40 * height),
        (0.062, APEX + 0.16 * height),
        (0.095, APEX + 0.03 * height),
    ]
    return smooth_outline(place(side, controls))


def heart_width(anatomy: Anatomy, ratio: float) -> float:
    """Return the width of a heart of the given cardiothoracic ratio."""
    return ratio * 2 * anatomy.half_width


def heart_outline(anatomy: Anatomy, ratio: float) -> Points:
    """Return the closed outline of heart and root of the great vessels [n, 2] for a cardiothoracic ratio."""
    width = heart_width(anatomy, ratio)
    right, left = MIDLINE - 0.36 * width, MIDLINE + 0.64 * width
    base = anatomy.dome + 0.03
    top = base - 0.27 - 0.35 * (width - 0.30)
    span = base - top
    controls = [
        (MIDLINE - 0.055, top - 0.03),
        (MIDLINE + 0.055, top - 0.03),
        (MIDLINE + 0.30 * width, top + 0.25 * span),
        (MIDLINE + 0.52 * width, top + 0.55 * span),
        (left, top + 0.86 * span),
        (left - 0.04, base + 0.03),
        (MIDLINE, base + 0.06),
        (right + 0.03, base + 0.01),
        (right, top + 0.66 * span),
        (right + 0.035, top + 0.34 * span),
    ]
    return smooth_outline(np.array(controls))


def spine_line(anatomy: Anatomy, steps: int = 24) -> Points:
    """Return the centre line of the spine from neck to abdomen [steps, 2]."""
    y = np.linspace(-0.05, 1.05, steps)
    bow = anatomy.scoliosis * np.sin((y - 0.1) * np.pi / 0.8) * (y > 0.1) * (y < 0.9)
    return np.stack([MIDLINE + bow, y], axis=1)


def body_outline(anatomy: Anatomy) -> Points:
    """Return the closed outline of neck, shoulders and trunk [n, 2]; it extends below the image."""
    chest = anatomy.half_width + 0.075 + 0.045 * anatomy.fat
    half = [
        (0.105, -0.15),
        (0.110, -0.04),
        (0.150, 0.020),
        (0.300, 0.055),
        (0.440, 0.095),
        (0.560, 0.200),
        (0.580, 0.380),
        (chest + 0.07, 0.480),
        (chest + 0.01, 0.580),
        (chest, 0.800),
        (chest + 0.01, 1.150),
    ]
    return smooth_outline(np.concatenate([place("left", half), place("right", half[::-1])]))


def mediastinum_outline(anatomy: Anatomy) -> Points:
    """Return the closed outline of the great vessels [n, 2], with the aortic knob, larger if the aorta is tortuous."""
    knob, arch = (0.105, 0.30) if anatomy.tortuous_aorta else (0.072, 0.335)
    left = [(0.050, -0.10), (0.050, 0.14), (0.052, arch - 0.07), (knob, arch), (knob - 0.012, arch + 0.055)]
    left += [(0.062, 0.48), (0.062, 0.64), (0.050, 1.10)]
    right = [(0.045, 1.10), (0.055, 0.55), (0.064, 0.36), (0.058, 0.20), (0.050, 0.10), (0.050, -0.10)]
    return smooth_outline(np.concatenate([place("left", left), place("right", right)]))


def breast_outline(side: str) -> Points:
    """Return the closed outline of the shadow of one breast [n, 2]."""
    points = [(0.10, 0.56), (0.26, 0.48), (0.40, 0.56), (0.37, 0.76), (0.22, 0.80), (0.11, 0.72)]
    return smooth_outline(place(side, points))


def posterior_ribs(anatomy: Anatomy, side: str) -> list[Points]:
    """Return curves of the posterior rib halves of one side, top to bottom."""
    sign, wall, ribs = outward(side), anatomy.half_width, []
    for number in range(10):
        y = 0.095 + number * anatomy.rib_gap
        reach = wall * min(1.0, 0.60 + 0.13 * number)
        drop = min(0.035 + 0.016 * number, 0.13)
        start, bend = (MIDLINE + sign * 0.04, y), (MIDLINE + sign * reach * 0.62, y - 0.035)
        ribs.append(smooth_path(start, bend, (MIDLINE + sign * reach, y + drop)))
    return ribs


def anterior_ribs(anatomy: Anatomy, side: str) -> list[Points]:
    """Return curves of the anterior rib halves of one side, which slope down to the midline."""
    sign, wall, ribs = outward(side), anatomy.half_width, []
    for number in range(1, 7):
        y = 0.13 + number * anatomy.rib_gap * 1.12
        reach = wall * min(1.0, 0.60 + 0.13 * number)
        start, end = (MIDLINE + sign * reach, y), (MIDLINE + sign * wall * 0.36, y + 0.105)
        ribs.append(smooth_path(start, (MIDLINE + sign * reach * 0.80, y + 0.085), end))
    return ribs


def clavicle(anatomy: Anatomy, side: str, lift: float) -> Points:
    """Return the curve of one clavicle [n, 2]; `lift` moves its lateral end up."""
    sign = outward(side)
    inner = smooth_path((0.045, 0.175), (0.13, 0.150), (0.22, 0.135 - lift / 2))
    outer = smooth_path((0.22, 0.135 - lift / 2), (0.31, 0.115 - lift), (0.43, 0.150 - lift))
    path = np.concatenate([inner, outer[1:]])
    return np.stack([MIDLINE + sign * path[:, 0], path[:, 1]], axis=1)


def hilum(anatomy: Anatomy, side: str) -> tuple[float, float]:
    """Return the centre (x, y) of the hilum of one lung."""
    height = anatomy.dome - APEX
    return MIDLINE + outward(side) * 0.085, APEX + height * (0.56 if side == "right" else 0.52)
