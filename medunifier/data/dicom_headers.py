"""View positions from DICOM headers, for data sets whose index does not list them."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl

from medunifier.data.dataset_files import locate_images

_THREADS = 16  # opening many files waits for the disk or the network


def add_views(rows: pl.DataFrame, root: Path, links: str = "follow") -> pl.DataFrame:
    """Return `rows` with `view` from the header of each file, null where the header has none.

    A file that cannot be used gets its rejection reason here (`locate_images`), so that it does not count as a file
    without a view, and is not opened. A file that is not DICOM has no view; decoding rejects it later.

    Args:
        rows: a table with the column `image_path`, relative to `root`.
        root: root folder of the data set.
        links: as for `locate_images`.

    Returns:
        `rows` with `image_path` as found, plus `view`, `reason` and `detail` (the latter two null where the file exists).
    """
    rows = locate_images(rows, root, links).drop("bytes")
    there = rows["reason"].is_null()
    paths = [root / path for path in rows["image_path"].filter(there)]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = iter(list(pool.map(view_position, paths)))
    return rows.with_columns(pl.Series("view", [next(found) if use else None for use in there], pl.String))


def view_position(path: Path) -> str | None:
    """Return View Position (0018,5101) of a DICOM file; None if it has none or is not DICOM."""
    # Imported here: most data sets have no DICOM files, and pydicom takes a quarter of a second to import.
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    broken = (
        ArithmeticError, AttributeError, BytesLengthException, EOFError, InvalidDicomError, LookupError,
        NotImplementedError, OSError, TypeError, ValueError, struct.error, zlib.error,
    )  # fmt: skip
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["ViewPosition"])
        view = header.get("ViewPosition")  # pydicom decodes the value only here
    except broken:
        return None
    return str(view or "").strip() or None
