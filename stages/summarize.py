"""Stage summarize: the paper's tables, and everything that the pipeline found on one page."""

from __future__ import annotations

from pathlib import Path

from medunifier.data.overlaps import count_overlaps, find_overlaps
from medunifier.report.content import page_content, tables_of
from medunifier.report.differences import differences, write_differences
from medunifier.report.headline import write_headline
from medunifier.report.overlaps import overlap_metrics, overlap_section
from medunifier.report.page import render_page
from medunifier.report.paper_section import paper_section
from medunifier.report.paper_tables import write_tables
from medunifier.report.views import read_views, within_views, write_views
from medunifier.results.item_scores import read_items
from medunifier.runtime.files import atomic_path
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.tracking import Run

PAGE = Path("results/report/index.html")
TABLES = Path("results/tables")
HEADLINE = Path("results/headline")
OVERLAPS = Path("results/report/overlaps.csv")  # each evaluation image that is somewhere in training


def summarize(params: Params, run: Run) -> None:
    """Write the paper's tables (results/tables), headline values and the report page (results/report/index.html).

    The page shows the pipeline, data counts, curves, tables, images and sample reports of the data sets, variants
    and evaluations that params.yaml enables. It is self-contained, opens without a network, and is the same for the
    same results. results/report/overlaps.csv lists evaluation images that are in a training split, by content.

    The diagram follows dvc.yaml, which DVC refuses as a dependency; a new stage brings new metrics, and with them
    a new page.
    """
    tables = tables_of(params)
    write_tables(tables, TABLES)
    write_headline(params, HEADLINE)
    compared = differences(params, read_items)
    write_differences(compared, TABLES / "differences.csv")
    write_views(within_views(params, read_items, read_views), TABLES / "views.csv")
    found = find_overlaps(params.datasets, Path("data/prepared"), Path("data/images"))
    content = page_content(params) | {
        "paper": paper_section(tables),
        "compared": compared,
        "overlaps": overlap_section(count_overlaps(found), len(params.datasets)),
    }
    page = render_page(content)
    with atomic_path(OVERLAPS) as temporary:
        found.write_csv(temporary)
    with atomic_path(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    run.artifact(PAGE)
    run.artifact(OVERLAPS, private=any(dataset.private for dataset in params.datasets.values()))
    run.metrics({"page_bytes": len(page.encode()), "sections": len(content["sections"])})
    run.metrics(overlap_metrics(found))
    run.log(f"wrote {PAGE}, {len(page.encode()) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_stage(summarize)
