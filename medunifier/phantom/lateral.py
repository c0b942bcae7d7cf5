"""Render a lateral radiograph: the patient faces left, both lungs overlap."""

import numpy as np

from medunifier.phantom.anatomy import APEX, Anatomy
from medunifier.phantom.exposure import BODY_COARSENESS, expose
from medunifier.phantom.findings import Finding
from medunifier.phantom.shapes import Frame, Points, bump, cloud, fill, smooth_outline, smooth_path, strokes

TISSUE, LUNG, HEART, ABDOMEN = 0.60, 0.22, 0.10, 0.76
ZONE_HEIGHT = {"upper": 0.28, "mid": 0.52, "lower": 0.78}


def render_lateral(anatomy: Anatomy, findings: tuple[Finding, ...], key: list[int], size: int) -> np.ndarray:
    """Render a left lateral radiograph, uint8 [size, size]; `key` seeds it as in `frontal`."""
    pose = np.random.default_rng([*key, 0])
    frame = Frame(
        size // BODY_COARSENESS,
        rotation=float(pose.normal(0, 0.02)),
        scale=float(pose.uniform(0.95, 1.05)),
        shift=(float(pose.normal(0, 0.012)), float(pose.normal(0, 0.010))),
    )
    x, y = frame.grid()
    rng = np.random.default_rng([*key, 2])
    growth = sum(0.018 * finding.severity for finding in findings if finding.name == "cardiomegaly")
    lungs = fill(frame, [_lungs(anatomy)], 0.007)
    heart = fill(frame, [_heart(anatomy, growth)], 0.022)
    opacity = _opacity(frame, anatomy, findings, x, y, np.random.default_rng([*key, 1]))
    vessels = strokes(frame, _vessels(anatomy, rng), 0.005)
    air = lungs * (0.75 + 0.25 * fill(frame, [_lungs(anatomy)], 0.04)) * (1 - 0.60 * heart) * (1 - opacity)
    below = 1 / (1 + np.exp((np.float32(anatomy.dome + 0.10) - y) * 25))
    tissue = (
        TISSUE + (ABDOMEN - TISSUE) * below + HEART * heart * (1 - below) + 0.04 * cloud(rng, frame.size, 5)
    )
    image = tissue * (1 - air) + (LUNG + 0.12 * vessels + 0.02 * cloud(rng, frame.size, 40)) * air
    trunk = fill(frame, [_body(anatomy)], 0.010)
    return expose(image * trunk + _bones(frame, anatomy) * trunk, np.random.default_rng([*key, 3]), size)


def _body(anatomy: Anatomy) -> Points:
    """Return the closed outline of the trunk [n, 2]."""
    front, back = 0.10 - 0.03 * anatomy.fat, 0.94 + 0.02 * anatomy.fat
    outline = [(0.36, -0.20), (0.36, -0.02), (0.22, 0.04), (0.16, 0.20), (front, 0.45), (front + 0.02, 0.80)]
    outline += [
        (front, 1.15),
        (back, 1.15),
        (back, 0.80),
        (back + 0.02, 0.45),
        (0.90, 0.20),
        (0.78, 0.03),
        (0.72, -0.20),
    ]
    return smooth_outline(np.array(outline))


def _lungs(anatomy: Anatomy) -> Points:
    """Return the closed outline of both lungs [n, 2]."""
    dome = anatomy.dome - 0.03
    outline = [
        (0.46, APEX),
        (0.56, APEX - 0.01),
        (0.68, 0.20),
        (0.77, 0.36),
        (0.80, 0.55),
        (0.79, dome + 0.11),
    ]
    outline += [
        (0.77, dome + 0.15),
        (0.77, dome + 0.15),
        (0.66, dome + 0.045),
        (0.50, dome),
        (0.34, dome + 0.012),
    ]
    outline += [
        (0.20, dome + 0.065),
        (0.20, dome + 0.065),
        (0.185, 0.52),
        (0.215, 0.34),
        (0.30, 0.22),
        (0.40, 0.15),
    ]
    return smooth_outline(np.array(outline))


def _heart(anatomy: Anatomy, growth: float) -> Points:
    """Return the closed outline of the heart [n, 2], enlarged by `growth`."""
    base = anatomy.dome + 0.03
    outline = [
        (0.44, 0.20),
        (0.52, 0.22),
        (0.54, 0.36),
        (0.56 + growth, 0.50 - growth),
        (0.57 + 2 * growth, base - 0.09),
    ]
    outline += [
        (0.52 + growth, base),
        (0.26, base),
        (0.205, base - 0.08),
        (0.25 - growth, 0.50 - growth),
        (0.38, 0.36),
    ]
    return smooth_outline(np.array(outline))


def _opacity(
    frame: Frame,
    anatomy: Anatomy,
    findings: tuple[Finding, ...],
    x: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the opacity of the findings, 0..1; a pneumothorax is not visible in a lateral view."""
    clear = np.ones((frame.size, frame.size), dtype=np.float32)
    for finding in findings:
        severity, height = finding.severity, anatomy.dome - APEX
        centre = (0.62, APEX + height * ZONE_HEIGHT.get(finding.zone, 0.5))
        if finding.name == "pleural_effusion":
            level = anatomy.dome + 0.10 - 0.07 * severity
            surface = [(0.15, level + 0.05), (0.60, level), (0.76, level - 0.05), (0.84, level - 0.10)]
            clear *= 1 - 0.95 * fill(frame, [np.array([*surface, (0.84, 1.1), (0.15, 1.1)])], 0.008)
        elif finding.name == "edema":
            clear *= 1 - 0.22 * severity * bump(x, y, (0.52, 0.45), (0.20, 0.24))
        elif finding.name == "atelectasis":
            band = smooth_path((centre[0] - 0.12, centre[1] + 0.03), centre, (centre[0] + 0.12, centre[1]))
            clear *= 1 - 0.7 * strokes(frame, [(band, 0.018 + 0.006 * severity, 1.0)], 0.004)
        elif finding.name in ("pneumonia", "consolidation"):
            patchy = 0.7 * cloud(rng, frame.size, 20) if finding.name == "pneumonia" else 0.0
            radius = 0.07 + 0.025 * severity
            clear *= 1 - np.clip(bump(x, y, centre, (radius, radius)) * (0.8 + patchy), 0, 0.9)
    return 1 - clear


def _vessels(anatomy: Anatomy, rng: np.random.Generator) -> list[tuple[Points, float, float]]:
    """Return vessels that fan out from the hilum, as lines for `strokes`."""
    root = np.array((0.50, APEX + 0.52 * (anatomy.dome - APEX)))
    lines = []
    for angle in np.linspace(0.0, 2 * np.pi, 15) + rng.normal(0, 0.1, 15):
        tip = root + rng.uniform(0.12, 0.24) * np.array([np.cos(angle), np.sin(angle)])
        lines.append((smooth_path(root, (root + tip) / 2 + rng.normal(0, 0.02, 2), tip), 0.008, 0.8))
    return lines


def _bones(frame: Frame, anatomy: Anatomy) -> np.ndarray:
    """Return spine with vertebrae, oblique ribs, sternum and shoulder blade as brightness to add."""
    y = np.linspace(-0.05, 1.05, 26)
    spine = np.stack([0.70 + 0.13 * np.sin(np.clip(y, 0, 1) * np.pi * 0.9 + 0.25), y], axis=1)
    discs = [(point + np.array([[-0.05, -0.005], [0.03, 0.005]]), 0.010, 0.35) for point in spine]
    lines = []
    for number in range(9):
        top = 0.16 + number * anatomy.rib_gap
        rib = smooth_path((0.82, top), (0.60, top + 0.06), (0.24, top + 0.16))
        lines += [(rib, 0.022, 0.45), (rib, 0.013, 0.30)]
    lines.append((smooth_path((0.27, 0.20), (0.17, 0.34), (0.165, 0.58)), 0.022, 0.7))
    lines.append((smooth_path((0.72, 0.08), (0.80, 0.20), (0.78, 0.34)), 0.030, 0.5))
    return 0.10 * strokes(frame, [(spine, 0.085, 1.0), *discs], 0.006) + 0.09 * strokes(frame, lines, 0.004)
