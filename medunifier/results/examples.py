"""Examples for readers: a Markdown file, which MLflow shows as it does not show Parquet."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from medunifier.runtime.files import atomic_path

Example = tuple[str, Sequence[tuple[str, str]]]  # heading, then (label, text) line by line

SHOWN_CANDIDATES = 3  # of each query, in `retrieval_examples`
_QUERIES = {"i2t": "Image {} asks for reports", "t2i": "The report of image {} asks for images"}


def write_examples(path: Path, title: str, examples: Sequence[Example]) -> None:
    """Write `title`, then each example below its heading.

    Raises:
        OSError: If the disk is full.
    """
    parts = [f"# {literal(title)}"]
    for heading, lines in examples:
        parts.append(f"## {literal(heading)}")
        parts += [f"**{literal(label)}:** {literal(text) or '(empty)'}" for label, text in lines]
    with atomic_path(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def literal(text: str) -> str:
    """Return `text` on one line, with Markdown markup escaped (such as the ___ of de-identified reports)."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_~\[\]])", r"\\\1", line)


def report_examples(table: pl.DataFrame) -> list[Example]:
    """Return each row of a table of reports (`predictions.REPORTS`): the reference, then the generated report."""
    return [
        (
            f"Image {row['image_id']}, study {row['study_id']}",
            [("reference", row["reference"]), ("written", row["prediction"])],
        )
        for row in table.iter_rows(named=True)
    ]


def retrieval_examples(rankings: pl.DataFrame, reports: Mapping[str, str]) -> list[Example]:
    """Return each query of a table of rankings (`rankings.RANKINGS`) with its first candidates.

    Args:
        rankings: Queries.
        reports: Text of each report, by the id of its image.
    """
    shown: list[Example] = []
    for query in rankings.iter_rows(named=True):
        own = reports[query["query_id"]]
        heading = _QUERIES[query["direction"].removeprefix("itm_")].format(query["query_id"])
        if query["direction"].startswith("itm_"):
            heading += ", re-ranked by ITM"
        lines = [("own report" if "i2t" in query["direction"] else "report", own)]
        candidates = zip(query["ranked_ids"][:SHOWN_CANDIDATES], query["relevant"], strict=False)
        for place, (image_id, relevant) in enumerate(candidates, 1):
            label = f"{place}. {image_id}, {'same' if relevant else 'another'} class"
            if reports[image_id] == own:
                label += ", the very report"
            lines.append((label, reports[image_id]))
        shown.append((heading, lines))
    return shown
