import itertools
import math
from xml.etree import ElementTree

import pytest

from medunifier.report import svg


def parsed(text):
    return ElementTree.fromstring(text)


def places(line):
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.3, 0.9), (-4, 7), (1234, 98765), (0, 0.00031), (2.0, 2.0), (0, 0)]
)
def test_ticks_are_round_few_and_span_the_values(low, high):
    ticks = svg.round_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in itertools.pairwise(ticks)}
    assert steps == {1.0}
    if low != high:
        step = ticks[1] - ticks[0]
        assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 2.5, 5)


def test_points_land_where_the_axes_say():
    """A line from (0, 0) to (100, 8) runs from corner to corner, and its middle is the middle."""
    chart = parsed(svg.line_chart("loss", [svg.Line("a", [(0, 0), (50, 4), (100, 8)], "train", dots=True)]))
    start, middle, end = places(chart.find("polyline"))
    assert start == (svg.LEFT, svg.BOTTOM) and end == (svg.RIGHT, svg.TOP)
    assert middle == pytest.approx(((svg.LEFT + svg.RIGHT) / 2, (svg.TOP + svg.BOTTOM) / 2))
    assert len(chart.findall("circle")) == 3
    assert {text.text for text in chart.findall("text")} >= {"0", "2", "4", "6", "8", "50", "100"}


def test_values_over_decades_get_a_logarithmic_axis():
    chart = parsed(svg.line_chart("loss", [svg.Line("a", [(0, 1000), (1, 10), (2, 0.1)], "train")]))
    top, middle, bottom = (y for _, y in places(chart.find("polyline")))
    assert middle - top == pytest.approx(bottom - middle, abs=0.2)


def test_what_is_not_finite_is_left_out():
    chart = parsed(
        svg.line_chart("loss", [svg.Line("a", [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)], "train")])
    )
    assert len(places(chart.find("polyline"))) == 2
    assert svg.line_chart("loss", [svg.Line("a", [(0, math.nan)], "train"), svg.Line("b", [], "train")]) == ""


def test_thinning_keeps_the_level():
    points = [(float(i), float(i % 2)) for i in range(1000)]
    thinned = svg.thin(points, most=100)
    assert len(thinned) == 100 and all(y == 0.5 for _, y in thinned)
    assert sum(x for x, _ in thinned) / 100 == sum(x for x, _ in points) / 1000
    assert svg.thin(points[:7]) == points[:7]


def test_whisker_orders_its_marks():
    mark = parsed(svg.whisker(50.0, 40.0, 60.0, 20.0, (0, 100)))
    lines = {line.get("class"): line for line in mark.findall("line")}
    baseline, low, high = (
        float(lines[c].get(x)) for c, x in (("baseline", "x1"), ("interval", "x1"), ("interval", "x2"))
    )
    assert baseline < low < float(mark.find("circle").get("cx")) < high
    assert float(mark.find("circle").get("cx")) == pytest.approx((low + high) / 2) == pytest.approx(66)
    assert "baseline" not in svg.whisker(1, 0, 2, None, (0, 3))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (40.0, "40"),
        (2500, "2.5k"),
        (7.5e-4, "7.5e-4"),
        (1e-5, "1e-5"),
        (2e6, "2e6"),
    ],
)
def test_tick_labels_are_short_and_exact(value, text):
    assert svg.short(value) == text
    assert float(text.replace("k", "e3")) == value


def test_text_is_escaped():
    assert "<b>" not in svg.line_chart("<b>", [svg.Line("a", [(0, 1), (1, 2)], '"x')])
