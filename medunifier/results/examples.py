"""Examples of what a stage made, to be read: a Markdown file, which MLflow shows as it does not show Parquet."""

import re
from collections.abc import Sequence
from pathlib import Path

from medunifier.runtime.files import atomic_path

Example = tuple[str, Sequence[tuple[str, str]]]  # heading, then (label, text) line by line


def write_examples(path: Path, title: str, examples: Sequence[Example]) -> None:
    """Write `title`, then each example below its heading. Raises OSError when the disk is full."""
    parts = [f"# {literal(title)}"]
    for heading, lines in examples:
        parts.append(f"## {literal(heading)}")
        parts += [f"**{literal(label)}:** {literal(text) or '(empty)'}" for label, text in lines]
    with atomic_path(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def literal(text: str) -> str:
    """`text` on one line, with what Markdown would take for markup (the ___ of de-identified reports) escaped."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_~\[\]])", r"\\\1", line)
