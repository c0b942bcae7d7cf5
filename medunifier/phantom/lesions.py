"""The appearance of each finding in a frontal image: one function per finding, which modifies a `Chest`.

The size of the heart (cardiomegaly) is part of the anatomy and is rendered in `frontal`.
"""

import numpy as np

from medunifier.phantom import anatomy as body
from medunifier.phantom.anatomy import APEX, MIDLINE
from medunifier.phantom.chest import Chest
from medunifier.phantom.findings import Finding
from medunifier.phantom.shapes import bump, cloud, fill, smooth_outline, smooth_path, strokes

ZONE_HEIGHT = {"upper": 0.32, "mid": 0.57, "lower": 0.82}  # centre, as a fraction of the lung's height
ZONE_WIDTH = {"upper": 0.54, "mid": 0.62, "lower": 0.66}  # centre, as a fraction of the distance to the wall
# Top and bottom, as fractions of the lung's height.
LOBES = {"upper": (0.02, 0.42), "mid": (0.40, 0.68), "lower": (0.62, 0.92)}


def zone_centre(chest: Chest, side: str, zone: str) -> tuple[float, float]:
    """Return the centre (x, y) of a zone."""
    x = MIDLINE + body.outward(side) * chest.anatomy.half_width * ZONE_WIDTH[zone]
    return x, APEX + (chest.dome(side) - APEX) * ZONE_HEIGHT[zone]


def atelectasis(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Add linear atelectasis: sharp, nearly horizontal bands; the hemidiaphragm is raised from moderate on."""
    bands = []
    for side in finding.sides():
        sign = body.outward(side)
        cx, cy = zone_centre(chest, side, finding.zone)
        tilt = float(rng.choice((-1, 1)))
        for number in range(finding.severity):
            slope = tilt * float(rng.uniform(0.010, 0.045))
            reach = float(rng.uniform(0.095, 0.120)) + 0.010 * finding.severity
            x, y = cx + sign * rng.uniform(-0.03, 0.03), cy + 0.024 - 0.054 * number
            plate = smooth_path((x - sign * reach, y + slope), (x, y - 0.014), (x + sign * reach, y - slope))
            bands.append((plate, float(rng.uniform(0.020, 0.025)) + 0.003 * finding.severity, 1.0))
        haze = (0.05 + 0.025 * finding.severity, 0.02 + 0.025 * finding.severity)
        chest.add_opacity(0.15 * finding.severity * bump(chest.x, chest.y, (cx, cy - 0.01), haze), side)
    chest.add_opacity(0.88 * strokes(chest.frame, bands, 0.0045))


def pneumonia(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Add confluent patches: an inhomogeneous opacity without a sharp edge."""
    radius = {1: 0.085, 2: 0.115, 3: 0.15}[finding.severity]
    for side in finding.sides():
        cx, cy = zone_centre(chest, side, finding.zone)
        centre = (cx + rng.normal(0, 0.012), cy + rng.normal(0, 0.012) - 0.02)
        hill = bump(chest.x, chest.y, centre, (radius, radius * 1.1))
        size = chest.frame.size
        texture = 0.62 + 0.75 * cloud(rng, size, 22) + 0.35 * cloud(rng, size, 11)
        chest.add_opacity(np.clip(1.25 * hill * np.clip(texture, 0.05, 1.1), 0, 0.9), side)


def consolidation(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Add a lobe without air: dense, homogeneous, bounded by the fissure, with air bronchograms."""
    share = {1: 0.55, 2: 0.78, 3: 1.0}[finding.severity]
    for side in finding.sides():
        sign, wall = body.outward(side), chest.anatomy.half_width
        height = chest.dome(side) - APEX
        top, bottom = LOBES[finding.zone]
        if finding.zone == "upper":
            top = bottom - (bottom - top) * share  # the fissure bounds it below, elsewhere above
        else:
            bottom = top + (bottom - top) * share
        y0, y1, outer = APEX + top * height, APEX + bottom * height, wall * (0.72 + 0.35 * share)
        bulge = 0.02 + 0.01 * float(rng.uniform(-1, 1))
        if finding.zone == "upper":
            lobe = [(0.03, y0 + 0.02), (outer * 0.5, y0 - bulge), (outer, y0 + 0.03), (outer, y1 - 0.015)]
            lobe += [(outer, y1 - 0.015), (0.03, y1), (0.03, y1)]
        else:
            lobe = [(0.03, y0 + 0.01), (0.03, y0 + 0.01), (outer, y0 - 0.012), (outer, y0 - 0.012)]
            lobe += [(outer, y1 - 0.03), (outer * 0.55, y1 + bulge), (0.03, y1 - 0.02)]
        mask = fill(chest.frame, [smooth_outline(body.place(side, lobe))], 0.010)
        root, middle = (MIDLINE + sign * 0.07, (y0 + y1) / 2), (y0 + y1) / 2
        bronchi = []
        for spread in (-0.35, 0.05, 0.45):
            tip = (MIDLINE + sign * outer * 0.8, middle + spread * (y1 - y0) + rng.normal(0, 0.008))
            bronchi.append((smooth_path(root, (root[0] + sign * 0.1, root[1]), tip), 0.008, 1.0))
        chest.add_opacity((0.90 - 0.22 * strokes(chest.frame, bronchi, 0.004)) * mask, side)


def edema(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Add perihilar haze in the shape of wings, thick vessels and septal lines at the bases."""
    strength = {1: 0.42, 2: 0.60, 3: 0.76}[finding.severity]
    spread = 0.11 + 0.02 * finding.severity
    septa = []
    for side in finding.sides():
        sign, (hx, hy) = body.outward(side), body.hilum(chest.anatomy, side)
        wing = bump(chest.x, chest.y, (hx + sign * 0.065, hy + 0.02), (spread, spread * 1.35))
        chest.add_opacity(strength * wing * (1 + 0.25 * cloud(rng, chest.frame.size, 26)), side)
        wall = MIDLINE + sign * chest.anatomy.half_width * 0.97
        for number in range(5 + finding.severity):
            y = chest.dome(side) - 0.02 - 0.022 * number + rng.normal(0, 0.003)
            inner = (wall - sign * rng.uniform(0.035, 0.06), y + rng.normal(0, 0.005))
            septa.append((np.array([(wall, y), inner]), 0.004, 1.0))
    chest.lines += (0.07 + 0.03 * finding.severity) * strokes(chest.frame, septa, 0.003)
    chest.vessel_gain += 0.25 + 0.15 * finding.severity
    chest.hilum_gain += 0.35 + 0.20 * finding.severity


def pleural_effusion(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Add fluid at the base: homogeneous, blunts the costophrenic angle, with a meniscus at the lateral wall."""
    depth = {1: 0.07, 2: 0.16, 3: 0.29}[finding.severity] + float(rng.uniform(-0.008, 0.012))
    for side in finding.sides():
        wall = chest.anatomy.half_width
        level = chest.dome(side) + 0.01 - depth
        climb = 0.055 + 0.02 * finding.severity
        inner = level + (0.055 if finding.severity == 1 else 0.005)
        meniscus = smooth_path(
            (wall + 0.01, level - climb), (wall * 0.84, level + 0.015), (wall * 0.45, level + 0.010)
        )
        surface = [(wall + 0.05, level - climb - 0.03), *map(tuple, meniscus), (0.0, inner)]
        mask = fill(chest.frame, [body.place(side, [*surface, (0.0, 1.1), (wall + 0.05, 1.1)])], 0.007)
        chest.fluid = np.maximum(chest.fluid, mask)
        chest.add_opacity(0.97 * mask)


def pneumothorax(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Collapse the lung towards its hilum: a fine pleural line, and only air beyond it."""
    share = {1: 0.84, 2: 0.68, 3: 0.46}[finding.severity] + float(rng.uniform(-0.02, 0.02))
    for side in finding.sides():
        sign = body.outward(side)
        outline = chest.outlines[side]
        # The lung is fixed at the hilum and rests on the diaphragm: the gap is widest at the apex and laterally.
        anchor = np.array([MIDLINE + sign * 0.05, chest.dome(side) - 0.02])
        lung = anchor + (outline - anchor) * np.array([share, 0.5 + 0.5 * share])
        collapsed = fill(chest.frame, [lung], 0.0045)
        gap = np.clip(fill(chest.frame, [outline], 0.0045) - collapsed, 0, 1)
        chest.free_air = np.maximum(chest.free_air, gap)
        chest.add_opacity((0.10 + 0.09 * finding.severity) * collapsed)
        edge = strokes(chest.frame, [(np.concatenate([lung, lung[:1]]), 0.006, 1.0)], 0.003)
        chest.lines += 0.42 * edge * bump(chest.x, chest.y, (anchor[0] + sign * 0.25, 0.30), (0.3, 0.42))


def covid_19(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    """Add ground-glass patches along the lateral wall of both lungs, mostly in the lower half."""
    strength = {1: 0.50, 2: 0.62, 3: 0.74}[finding.severity]
    size = chest.frame.size
    texture = np.clip(0.8 + 0.5 * cloud(rng, size, 24), 0.1, 1.2)
    for side in finding.sides():
        sign, height = body.outward(side), chest.dome(side) - APEX
        for part in rng.uniform(0.40, 0.92, 2 + finding.severity):
            rim = chest.anatomy.half_width * rng.uniform(0.80, 0.92)
            centre = (MIDLINE + sign * rim, APEX + part * height)
            radius = (rng.uniform(0.045, 0.07), rng.uniform(0.055, 0.085))
            chest.add_opacity(strength * texture * bump(chest.x, chest.y, centre, radius), side)


LESIONS = {
    "atelectasis": atelectasis,
    "consolidation": consolidation,
    "covid_19": covid_19,  # only in the COVIDx copy, not in the MIMIC copy
    "edema": edema,
    "pleural_effusion": pleural_effusion,
    "pneumonia": pneumonia,
    "pneumothorax": pneumothorax,
}
