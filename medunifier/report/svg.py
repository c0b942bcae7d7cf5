"""Small charts as SVG text. Colours and fonts come from the page's style sheet, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

CHART_WIDTH, CHART_HEIGHT = 260, 156
LEFT, RIGHT, TOP, BOTTOM = 40, 250, 8, 134  # the plotting area
MOST_POINTS = 240  # of a line; more cannot be distinguished at this width
LOG_FROM = 30  # ratio of largest to smallest value above which the axis is logarithmic


@dataclass(frozen=True)
class Line:
    """One line of a chart; `style` is its CSS class, `dots` marks each point."""

    label: str
    points: Sequence[Point]
    style: str
    dots: bool = False


def element(name: str, content: str = "", **attributes: object) -> str:
    """Return one SVG element; `class_` stands for class and `_` in other names for `-`; numbers are shortened."""
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(number(value))}"' for key, value in attributes.items()
    )
    return f"<{name}{text}>{content}</{name}>" if content else f"<{name}{text}/>"


def number(value: object) -> str:
    """Return a coordinate with at most two decimals; other values as text."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def line_chart(title: str, lines: Sequence[Line], x_label: str = "step") -> str:
    """Return a chart of lines over a common x axis, logarithmic where values span decades.

    Points that are not finite are left out. The text is empty for lines without points.
    """
    kept = [
        Line(line.label, thin([p for p in line.points if math.isfinite(p[1])]), line.style, line.dots)
        for line in lines
    ]
    values = [y for line in kept for _, y in line.points]
    if not values:
        return ""
    logarithmic = min(values) > 0 and max(values) / min(values) > LOG_FROM
    scale = math.log10 if logarithmic else float
    ticks = decades(min(values), max(values)) if logarithmic else round_ticks(min(values), max(values))
    low, high = min(scale(ticks[0]), *map(scale, values)), max(scale(ticks[-1]), *map(scale, values))
    steps = [x for line in kept for x, _ in line.points]
    last = max(steps) or 1
    x_ticks = [tick for tick in round_ticks(0, last) if tick <= last]

    def place(x: float, y: float) -> Point:
        height = (scale(y) - low) / ((high - low) or 1)
        return LEFT + (RIGHT - LEFT) * x / last, BOTTOM - (BOTTOM - TOP) * height

    body = [element("title", escape(f"{title} by {x_label}"))]
    for tick in ticks:
        y = place(0, tick)[1]
        body.append(element("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="grid"))
        body.append(element("text", short(tick), x=LEFT - 6, y=y + 3.5, class_="tick end"))
    for tick in x_ticks:
        x = place(tick, ticks[0])[0]
        body.append(element("text", short(tick), x=x, y=BOTTOM + 15, class_="tick middle"))
    body.append(element("line", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM, class_="axis"))
    for line in kept:
        places = [place(x, y) for x, y in line.points]
        body.append(
            element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), class_=line.style)
        )
        if line.dots:
            body += [element("circle", cx=x, cy=y, r=2.6, class_=line.style) for x, y in places]
    return element(
        "svg", "".join(body), viewBox=f"0 0 {CHART_WIDTH} {CHART_HEIGHT}", role="img", class_="chart"
    )


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most `most` points, each the mean of its neighbours, so that a noisy line keeps its level."""
    size = math.ceil(len(points) / most)
    groups = [points[i : i + size] for i in range(0, len(points), size or 1)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def round_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round numbers (1, 2, 2.5 or 5 times a power of ten) that span [low, high] with about so many steps."""
    if high <= low:
        low, high = (low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Return the powers of ten around [low, high]."""
    return [10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def short(value: float) -> str:
    """Return a tick's label: 0.25, 40, 2k, 1e-5."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def whisker(value: float, low: float, high: float, baseline: float | None, span: Point) -> str:
    """Return a value with its interval on a line from span[0] to span[1], and a mark at the baseline."""
    width = 132

    def place(x: float) -> float:
        share = (min(max(x, span[0]), span[1]) - span[0]) / (span[1] - span[0])
        return 4 + (width - 8) * share

    body = element("line", x1=4, x2=width - 4, y1=9, y2=9, class_="grid")
    if baseline is not None:
        x = place(baseline)
        body += element("line", x1=x, x2=x, y1=2, y2=16, class_="baseline")
    body += element("line", x1=place(low), x2=place(high), y1=9, y2=9, class_="interval")
    body += element("circle", cx=place(value), cy=9, r=3.6, class_="value")
    return element("svg", body, viewBox=f"0 0 {width} 18", class_="whisker", aria_hidden="true")
