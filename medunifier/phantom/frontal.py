"""Render a frontal radiograph: the attenuation of air, soft tissue, vessels and bone, combined."""

import numpy as np

from medunifier.phantom import anatomy as body
from medunifier.phantom.anatomy import MIDLINE, SIDES, Anatomy
from medunifier.phantom.chest import Chest
from medunifier.phantom.exposure import BODY_COARSENESS, expose
from medunifier.phantom.findings import Finding
from medunifier.phantom.lesions import LESIONS
from medunifier.phantom.shapes import Frame, bump, cloud, fill, smooth_outline, smooth_path, strokes

# Grey values before exposure: 0 black (air around the patient), 1 white.
SOFT_TISSUE, LUNG, FREE_AIR, HEART, ABDOMEN = 0.58, 0.15, 0.09, 0.72, 0.76
SPINE, RIB = 0.12, 0.085  # added by bone
RAISED = {1: 0.0, 2: 0.035, 3: 0.06}  # lift of the hemidiaphragm by atelectasis, per severity
HEART_GAIN = {1: 0.11, 2: 0.18, 3: 0.26}  # added to the cardiothoracic ratio, per severity


def render_frontal(
    anatomy: Anatomy, findings: tuple[Finding, ...], device: str, portable: bool, key: list[int], size: int
) -> np.ndarray:
    """Render a PA (or, if `portable`, AP) radiograph, uint8 [size, size].

    Each part has a random generator of its own, derived from `key`: an additional finding changes nothing outside
    its own opacity.
    """
    chest = chest_with_findings(anatomy, findings, key, size)
    ratio = anatomy.heart_ratio + (0.02 if portable else 0.0)
    ratio += sum(HEART_GAIN[finding.severity] for finding in findings if finding.name == "cardiomegaly")
    image = _soft_parts(chest, ratio, np.random.default_rng([*key, 2]))
    image += _bones(chest, portable)
    image += _devices(chest.frame, anatomy, device)
    return expose(image, np.random.default_rng([*key, 3]), size)


def chest_with_findings(anatomy: Anatomy, findings: tuple[Finding, ...], key: list[int], size: int) -> Chest:
    """Return the maps of the lungs with their findings (opacities, free air) for an image of `size` pixels."""
    pose = np.random.default_rng([*key, 0])
    frame = Frame(
        size // BODY_COARSENESS,
        rotation=float(pose.normal(0, 0.02)),
        scale=float(pose.uniform(0.97, 1.07)),
        shift=(float(pose.normal(0, 0.010)), float(pose.normal(0, 0.010))),
    )
    raised: dict[str, float] = dict.fromkeys(SIDES, 0.0)
    for finding in findings:
        if finding.name == "atelectasis":
            raised |= dict.fromkeys(finding.sides(), RAISED[finding.severity])
    chest = Chest.healthy(anatomy, frame, raised)
    for finding in findings:
        if finding.name in LESIONS:
            LESIONS[finding.name](chest, finding, np.random.default_rng([*key, 1, *finding.name.encode()]))
    return chest


def _soft_parts(chest: Chest, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Return trunk, lungs with their vessels, heart, great vessels and diaphragm as grey values."""
    anatomy, frame, x, y = chest.anatomy, chest.frame, chest.x, chest.y
    heart = fill(frame, [body.heart_outline(anatomy, ratio)], 0.009)
    middle = fill(frame, [body.mediastinum_outline(anatomy)], 0.012)
    silhouette = np.maximum(heart, middle)
    for side in SIDES:
        chest.add_opacity(0.34 * chest.hilum_gain * bump(x, y, body.hilum(anatomy, side), (0.036, 0.062)))
    # Less air towards the edge of the lungs, where the path of the rays through them is shorter.
    depth = 0.78 + 0.22 * fill(frame, list(chest.outlines.values()), 0.035)
    air = chest.lungs * depth * (1 - 0.80 * heart) * (1 - 0.90 * middle) * (1 - 0.14 * anatomy.fat)
    air *= 1 - chest.opacity * (1 - chest.free_air)

    trunk = fill(frame, [body.body_outline(anatomy)], 0.010)
    below = 1 / (1 + np.exp((np.float32(anatomy.dome + 0.06) - y) * 30))
    tissue = SOFT_TISSUE + (ABDOMEN - SOFT_TISSUE) * below + 0.04 * cloud(rng, frame.size, 5)
    tissue += (HEART - SOFT_TISSUE) * silhouette * (1 - below)
    tissue += 0.06 * bump(x, y, (MIDLINE, 0.5), (0.20, 1.2))
    image = tissue * (1 - air) + (LUNG + (FREE_AIR - LUNG) * chest.free_air) * air
    texture = 0.30 * chest.vessel_gain * _vessels(chest, rng) + 0.03 * cloud(rng, frame.size, 46)
    image += air * (1 - 0.85 * silhouette) * (1 - chest.free_air) * texture
    image += chest.lines * chest.lungs * (1 - 0.6 * heart)
    if anatomy.breasts:
        image += 0.07 * anatomy.breasts * fill(frame, [body.breast_outline(side) for side in SIDES], 0.010)
    if anatomy.gastric_bubble:
        radius = anatomy.gastric_bubble
        centre = (0.69, body.dome_top(anatomy, "left", chest.raised["left"]) + 0.035 + radius)
        image -= 0.28 * below * bump(x, y, centre, (1.3 * radius, 0.8 * radius))
    return image * trunk - 0.11 * _airway(frame, anatomy)


def _vessels(chest: Chest, rng: np.random.Generator) -> np.ndarray:
    """Return arteries and veins that fan out from the hila, branch and taper; the lower ones are wider."""
    lines = []
    for side in SIDES:
        root, sign = np.array(body.hilum(chest.anatomy, side)), body.outward(side)
        angles = np.linspace(-1.3, 1.4, 9) + rng.normal(0, 0.09, 9)
        tips = root + rng.uniform(0.15, 0.27, (9, 1)) * _direction(sign, angles)
        bends = (root + tips) / 2 + rng.normal(0, 0.022, (9, 2))
        stems = smooth_path(root[None], bends, tips, 9)  # [9 points, 9 vessels, 2]
        for joint in (3, 5):
            turns = angles + rng.choice((-1, 1), 9) * rng.uniform(0.35, 0.8, 9)
            ends = stems[joint] + rng.uniform(0.05, 0.10, (9, 1)) * _direction(sign, turns)
            lines += [(twig, 0.0045, 0.30) for twig in np.stack([stems[joint], ends], axis=1)]
        for stem, calibre in zip(stems.transpose(1, 0, 2), 1.0 + 0.25 * np.sin(angles), strict=True):
            lines += [(stem[5:], 0.006, 0.35), (stem[:6], 0.011 * calibre, 0.70)]
    return strokes(chest.frame, sorted(lines, key=lambda line: line[2]), 0.004)


def _direction(sign: int, angles: np.ndarray) -> np.ndarray:
    """Return steps [n, 2] outward, turned down by the angles (radians); lungs are taller than wide."""
    return np.stack([sign * np.cos(angles), 1.2 * np.sin(angles)], axis=1)


def _bones(chest: Chest, portable: bool) -> np.ndarray:
    """Return spine, ribs, clavicles and shoulder blades as brightness to add."""
    anatomy, frame = chest.anatomy, chest.frame
    lines = []
    for side in SIDES:
        curves = [(curve, 0.40) for curve in body.anterior_ribs(anatomy, side)]
        curves += [(curve, 0.75) for curve in body.posterior_ribs(anatomy, side)]
        for curve, shade in curves:
            # The cortex is denser than the marrow: a bright band, then a darker core on top.
            lines += [(curve, 0.024, shade), (curve, 0.014, shade * 0.70)]
        blade = [(0.345, 0.17), (0.330 + 0.03 * (not portable), 0.30), (0.40, 0.47)]
        lines.append((smooth_path(*body.place(side, blade)), 0.010, 0.5))
        collar = body.clavicle(anatomy, side, 0.03 if portable else 0.0)
        lines += [(collar, 0.028, 1.0), (collar, 0.017, 0.78)]
    ribs = strokes(frame, lines, 0.003)
    # Where heart and abdomen lie in front, bones are hardly visible: the image is nearly white there.
    faint = 1 / (1 + np.exp((chest.y - np.float32(anatomy.dome + 0.02)) * 40))
    spine = body.spine_line(anatomy)
    discs = [
        (spine[i] + np.array([[-0.034, 0.0], [0.034, 0.0]]), 0.009, 0.55) for i in range(1, len(spine) - 1)
    ]
    column = strokes(frame, [(spine, 0.074, 1.0), *discs], 0.006)
    return RIB * ribs * (0.25 + 0.75 * faint) * (1 - 0.7 * chest.fluid) + SPINE * column


def _airway(frame: Frame, anatomy: Anatomy) -> np.ndarray:
    """Return trachea and main bronchi as brightness to subtract."""
    carina = (MIDLINE - 0.004, 0.345)
    lines = [(np.array([carina, body.hilum(anatomy, side)]), 0.020, 0.6) for side in SIDES]
    trachea = np.array([(MIDLINE, -0.05), (MIDLINE - 0.006, 0.2), carina])
    return strokes(frame, [*lines, (trachea, 0.036, 1.0)], 0.006)


def _devices(frame: Frame, anatomy: Anatomy, device: str) -> np.ndarray | float:
    """Return a right jugular catheter, or a pacemaker in the left chest wall, as brightness to add."""
    if device == "central line":
        upper = smooth_path((0.405, -0.02), (0.445, 0.12), (0.452, 0.22))
        lower = smooth_path((0.452, 0.22), (0.446, 0.32), (0.449, 0.43))
        return 0.34 * strokes(frame, [(np.concatenate([upper, lower[1:]]), 0.008, 1.0)], 0.002)
    if device == "pacemaker":
        corners = [(0.735, 0.21), (0.80, 0.20), (0.835, 0.225), (0.835, 0.275), (0.80, 0.30), (0.74, 0.29)]
        lead = smooth_path((0.74, 0.245), (0.52, 0.17), (0.455, 0.40), 10)
        lead = np.concatenate(
            [lead, smooth_path(lead[-1], (0.45, 0.62), (0.585, anatomy.dome - 0.02), 10)[1:]]
        )
        box = fill(frame, [smooth_outline(np.array(corners))], 0.003)
        return 0.40 * box + 0.32 * strokes(frame, [(lead, 0.007, 1.0)], 0.002)
    return 0.0
