import itertools
from xml.etree import ElementTree

import networkx
import numpy as np

from medunifier.report.content import stage_families
from medunifier.report.pipeline_diagram import BOX_HEIGHT, BOX_WIDTH, Family, direct, pipeline_diagram
from medunifier.runtime.dvc_pipeline import Pipeline
from tests.support.report_results import REPO


def test_edges_that_follow_from_others_are_left_out():
    """Against networkx on random acyclic graphs."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        edges = [(str(a), str(b)) for a, b in itertools.combinations(range(9), 2) if rng.random() < 0.4]
        inputs = {str(n): {a for a, b in edges if b == str(n)} for n in range(9)}
        graph = networkx.DiGraph(edges)
        assert {(a, b) for b, sources in direct(inputs).items() for a in sources} == set(
            networkx.transitive_reduction(graph).edges
        )


def test_every_family_has_a_box_below_those_it_reads_from():
    families, image = stage_families(Pipeline(REPO))
    svg = ElementTree.fromstring(image)
    names = [text.text for text in svg.findall("text") if text.get("class") == "stage-name"]
    assert names == [family.name for family in families]
    boxes = {
        n: (float(r.get("x")), float(r.get("y"))) for n, r in zip(names, svg.findall("rect"), strict=True)
    }
    for (x1, y1), (x2, y2) in itertools.combinations(boxes.values(), 2):
        assert abs(x1 - x2) >= BOX_WIDTH or abs(y1 - y2) >= BOX_HEIGHT  # no two overlap
    width, height = map(float, svg.get("viewBox").split()[2:])
    assert all(0 <= x <= width - BOX_WIDTH and 0 <= y <= height - BOX_HEIGHT for x, y in boxes.values())
    assert boxes["simulate"][1] < boxes["prepare"][1] < boxes["pretrain"][1] < boxes["summarize"][1]
    assert width < 400  # readable on a phone without zooming


def test_many_stages_of_a_family_are_told_apart_from_one():
    families = [
        Family("make", "", ()),
        Family("use", "", ["one"]),
        Family("use_all", "", [f"value-{i}" for i in range(9)]),
    ]
    svg = pipeline_diagram(families, {"make": set(), "use": {"make"}, "use_all": {"make", "use"}})
    assert "9 stages" in svg and ">one<" in svg
    assert svg.count('class="flow"') == 2
