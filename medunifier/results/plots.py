"""ROC curves and reliability plots as SVG files that stand alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medunifier.metrics.classification import auroc, reliability, roc_curve

SIDE, EDGE = 320, 44  # pixels: the plotting area, and the margin for labels
COLOURS = ("#1d5fa8", "#c2571a", "#3b7d3b", "#7a4fa3", "#777777")

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]  # class -> (scores [n], positive bool [n])


def write_classifier_plots(
    folder: Path, labels: Sequence[str], target: np.ndarray, scores: Mapping[str, np.ndarray]
) -> list[Path]:
    """Write ROC curves and reliability plots as SVG, and the points of the curves as CSV.

    Args:
        folder: Where to write `roc_NAME.svg`, `roc_NAME.csv` and `reliability_NAME.svg`.
        labels: The label of a binary task, the C classes, or L labels that do not exclude each other.
        target: Class numbers, int64 [n]; or 1, 0, or -1 where the label is ignored, int64 [n, L].
        scores: Probabilities [n, C] or [n, L] of each classifier, by name; C is 2 for a binary task.

    Returns:
        The SVG files.
    """
    written = []
    for name, found in scores.items():
        curves = curves_of(labels, target, found)
        confidence, right = calibration_of(target, found)
        (folder / f"roc_{name}.csv").write_text(roc_csv(curves), encoding="utf-8")
        for kind, svg in (("roc", roc_svg(curves)), ("reliability", reliability_svg(confidence, right))):
            path = folder / f"{kind}_{name}.svg"
            path.write_text(svg, encoding="utf-8")
            written.append(path)
    return written


def curves_of(labels: Sequence[str], target: np.ndarray, scores: np.ndarray) -> Curves:
    """Return the scores of each class or label with what is positive; arguments as for `write_classifier_plots`."""
    if target.ndim == 2:
        known = target >= 0
        return {
            label: (scores[known[:, i], i], target[known[:, i], i] == 1) for i, label in enumerate(labels)
        }
    first = scores.shape[1] - len(labels)  # a binary task has its one label in column 1
    return {label: (scores[:, i], target == i) for i, label in enumerate(labels, first)}


def calibration_of(target: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted probabilities and whether they came true, [n] each.

    Of the positive class in a binary task, of the most probable class otherwise, of all labels together where they do
    not exclude each other.
    """
    if target.ndim == 2:
        known = target >= 0
        return scores[known], target[known] == 1
    if scores.shape[1] == 2:
        return scores[:, 1], target == 1
    return scores.max(1), scores.argmax(1) == target


def roc_svg(curves: Curves) -> str:
    """Return a plot with the ROC curve of each class, its AUROC in the legend."""
    body, legend = [], []
    for number, (name, (scores, positive)) in enumerate(curves.items()):
        body.append(_line(*roc_curve(scores, positive), number))
        legend.append(f"{name}: AUROC {100 * float(auroc(scores, positive)):.1f} %")
    return _plot("".join(body), "1 - specificity", "sensitivity", legend)


def roc_csv(curves: Curves) -> str:
    """Return the points of the curves: class, false_positive_rate, true_positive_rate."""
    rows = ["class,false_positive_rate,true_positive_rate"]
    for name, (scores, positive) in curves.items():
        rows += [f"{name},{x:.6g},{y:.6g}" for x, y in zip(*roc_curve(scores, positive), strict=True)]
    return "\n".join(rows) + "\n"


def reliability_svg(confidence: np.ndarray, right: np.ndarray) -> str:
    """Return a reliability plot: share of right answers over predicted probability.

    Args:
        confidence: Predicted probabilities, [n].
        right: Whether they came true, bool [n].
    """
    bins = reliability(confidence, right)
    x, y = np.array([b[0] for b in bins]), np.array([b[1] for b in bins])
    dots = "".join(
        f'<circle cx="{_x(a):.1f}" cy="{_y(b):.1f}" r="{2 + 8 * (n / len(right)) ** 0.5:.1f}" fill="{COLOURS[0]}" '
        f'fill-opacity="0.6"><title>{n} images</title></circle>'
        for a, b, n in bins
    )
    return _plot(_line(x, y, 0) + dots, "predicted probability", "observed share", [])


def _x(value: float) -> float:
    return EDGE + SIDE * value


def _y(value: float) -> float:
    return 8 + SIDE * (1 - value)


def _line(x: np.ndarray, y: np.ndarray, number: int) -> str:
    points = " ".join(f"{_x(a):.1f},{_y(b):.1f}" for a, b in zip(x, y, strict=True))
    colour = COLOURS[number % len(COLOURS)]
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'


def _plot(body: str, x_label: str, y_label: str, legend: list[str]) -> str:
    """Return a unit square with ticks, the diagonal and `body`."""
    size = SIDE + EDGE + 12
    parts = [
        f'<rect x="{EDGE}" y="8" width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/>',
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="#bbb" stroke-dasharray="4 4"/>',
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<text x="{_x(tick)}" y="{_y(0) + 16}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{EDGE - 6}" y="{_y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text x="{_x(0.5)}" y="{_y(0) + 34}" text-anchor="middle">{x_label}</text>')
    middle = _y(0.5)
    parts.append(
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{y_label}</text>'
    )
    for number, text in enumerate(legend):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(
            f'<text x="{_x(1) - 8}" y="{_y(0) - 12 - 16 * (len(legend) - 1 - number)}" text-anchor="end" fill="{colour}">{text}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size + 4}" width="{size}" height="{size + 4}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}{body}</svg>\n"
    )
