"""The pipeline as an SVG diagram: stage families from top to bottom in the order in which data flows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from medunifier.report.svg import element

BOX_WIDTH, BOX_HEIGHT = 112, 38
GAP_X, GAP_Y = 8, 24
MARGIN = 2
MOST_IN_ROW = 3  # boxes: what a phone shows without zooming


@dataclass(frozen=True)
class Family:
    """Stages of one name: what they do and the matrix values that are enabled (none: a single stage)."""

    name: str
    description: str
    values: Sequence[str]


def pipeline_diagram(families: Sequence[Family], inputs: Mapping[str, Collection[str]]) -> str:
    """Return an SVG of the families and of what flows between them.

    A family stands one row below the lowest of those it reads from, or lower where that row is full. Edges that
    follow from others are left out.

    Args:
        families: in the order of dvc.yaml.
        inputs: family -> the families that it reads from.
    """
    inputs = direct(inputs)
    level: dict[str, int] = {}
    for family in families:  # in dvc.yaml's order, in which every stage comes after its inputs
        row = 1 + max((level[name] for name in inputs[family.name]), default=-1)
        while list(level.values()).count(row) == MOST_IN_ROW:
            row += 1
        level[family.name] = row
    centre = place_in_rows([family.name for family in families], level, inputs)
    left, right = min(centre.values()), max(centre.values())
    shift = MARGIN + BOX_WIDTH / 2 - left
    width = right - left + BOX_WIDTH + 2 * MARGIN
    height = (max(level.values()) + 1) * (BOX_HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN

    def top(name: str) -> float:
        return MARGIN + level[name] * (BOX_HEIGHT + GAP_Y)

    body = [element("title", "The stages of the pipeline and what flows between them")]
    for name, sources in inputs.items():
        for source in sorted(sources):
            x1, y1 = centre[source] + shift, top(source) + BOX_HEIGHT
            x2, y2 = centre[name] + shift, top(name)
            bend = y2 - GAP_Y  # straight down past other rows, then a curve in the last gap
            path = f"M{x1:g},{y1:g} V{bend:g} C{x1:g},{bend + 14:g} {x2:g},{y2 - 14:g} {x2:g},{y2:g}"
            body.append(element("path", d=path, class_="flow"))
    for family in families:
        x, y = centre[family.name] + shift, top(family.name)
        many = " many" if len(family.values) > 1 else ""
        body.append(
            element(
                "rect",
                x=x - BOX_WIDTH / 2,
                y=y,
                width=BOX_WIDTH,
                height=BOX_HEIGHT,
                rx=6,
                class_="stage" + many,
            )
        )
        line = y + (16 if family.values else 23)
        body.append(element("text", escape(family.name), x=x, y=line, class_="stage-name"))
        if family.values:
            body.append(element("text", escape(summary(family.values)), x=x, y=y + 30, class_="stage-values"))
    return element(
        "svg",
        "".join(body),
        viewBox=f"0 0 {width:g} {height:g}",
        style=f"max-width:{1.25 * width:.0f}px",
        role="img",
        class_="pipeline",
    )


def summary(values: Sequence[str], most: int = 17) -> str:
    """Return the matrix values, or their number where they do not fit into a box."""
    text = ", ".join(values)
    return text if len(text) <= most else f"{len(values)} stages"


def direct(inputs: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
    """Return the edges without those that follow from others: a -> c goes if a -> b -> c is there."""

    def upstream(name: str) -> set[str]:
        return set(inputs[name]).union(*(upstream(source) for source in inputs[name]))

    return {
        name: {s for s in sources if not any(s in upstream(other) for other in sources if other != s)}
        for name, sources in inputs.items()
    }


def place_in_rows(
    names: Sequence[str], level: Mapping[str, int], inputs: Mapping[str, Collection[str]]
) -> dict[str, float]:
    """Return the x of each box: boxes of one row side by side, around the mean of their inputs."""
    pitch = BOX_WIDTH + GAP_X
    centre: dict[str, float] = {}
    for row in range(max(level.values()) + 1):
        members = [name for name in names if level[name] == row]
        wish = {n: mean([centre[source] for source in inputs[n]]) for n in members}
        members.sort(key=lambda name: (wish[name], names.index(name)))
        middle = mean(list(wish.values()))
        for index, name in enumerate(members):
            centre[name] = middle + (index - (len(members) - 1) / 2) * pitch
    return centre


def mean(values: Sequence[float]) -> float:
    """Return the mean, 0 without values."""
    return sum(values) / len(values) if values else 0.0
