"""Which items an evaluation uses, and in what batches."""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from tqdm import tqdm

from medunifier.runtime.errors import InputError
from medunifier.storage.mapped_rows import MappedRows
from medunifier.tracking import LocalRun

BATCH = 64  # items; results do not depend on it


def usable_items(
    table: pl.DataFrame, source: str, stores: Sequence[MappedRows], run: LocalRun, *, prefix: str = ""
) -> pl.DataFrame:
    """Select the rows of a prepared table that have a report and are in all `stores`, in the table's order.

    The other rows are counted in the metrics `PREFIXn_without_report` and `PREFIXn_without_picture` of `run`, and in
    a line of its log.

    Args:
        table: A prepared table.
        source: Name of its file, for messages.
        stores: Images or image features, addressed by image id.
        run: Receives the counts.
        prefix: Put before the names of the metrics.

    Raises:
        InputError: If no row is left.
    """
    with_report = table.filter(pl.col("report").str.strip_chars().str.len_chars() > 0)
    present = [all(image_id in store for store in stores) for image_id in with_report["image_id"]]
    items = with_report.filter(pl.Series(present, dtype=pl.Boolean))
    without_report = len(table) - len(with_report)
    without_image = len(with_report) - len(items)
    run.metrics({f"{prefix}n_without_report": without_report, f"{prefix}n_without_picture": without_image})
    folders = " and ".join(str(store.folder) for store in stores) or "any store"
    left_out = f"{without_report} have no report, {without_image} are not in {folders}"
    if items.is_empty():
        raise InputError(
            f"{source}: none of its {len(table)} images can be used ({left_out}); look at "
            "data/prepared/*/summary.json and data/images/*/rejected.parquet, and loosen the filters in params.yaml"
        )
    if len(items) < len(table):
        run.log(f"{source}: {len(items)} of {len(table)} images are used; {left_out}")
    return items


def seeded_rows(n: int, size: int | None, seed: int) -> np.ndarray:
    """Draw `size` of the row numbers 0 .. n - 1 by `seed`, int64 [size], in ascending order.

    All rows are returned if `size` is None or not smaller than `n`.
    """
    if size is None or size >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:size])


def batches(n: int, size: int, title: str) -> Iterator[slice]:
    """Yield slices of at most `size` that cover `n` items, with a progress bar (a line every 30 s in a log file)."""
    pause = 0.1 if sys.stderr.isatty() else 30
    for start in tqdm(range(0, n, size), desc=title, unit="batch", mininterval=pause, leave=False):
        yield slice(start, min(start + size, n))
