"""View positions from DICOM headers, for data sets whose index does not list them."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl

from medunifier.data.preparation.rejects import Reason

_THREADS = 16  # opening many files waits for the disk or the network


def add_views(rows: pl.DataFrame, root: Path) -> pl.DataFrame:
    """Return `rows` with `view` from the header of each file, null where the header has none.

    A missing file gets its rejection reason here, so that it does not count as a file without a view. A file that
    is not DICOM has no view; decoding rejects it later.

    Args:
        rows: a table with the column `image_path`, relative to `root`.
        root: root folder of the data set.

    Returns:
        `rows` plus `view`, `reason` and `detail` (the latter two null where the file exists).
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(view_position, (root / path for path in rows["image_path"])))
    missing = pl.Series(["missing" in outcome for outcome in found], dtype=pl.Boolean)
    return rows.with_columns(
        pl.Series("view", [outcome.get("view") for outcome in found], pl.String),
        pl.when(missing).then(pl.lit(Reason.MISSING_IMAGE.value)).alias("reason"),
        pl.when(missing).then("image_path").alias("detail"),
    )


def view_position(path: Path) -> dict[str, str | None]:
    """Return {"view": View Position (0018,5101) or None}, or {"missing": path} if there is no such file."""
    # Imported here: most data sets have no DICOM files, and pydicom takes a quarter of a second to import.
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    broken = (
        ArithmeticError, AttributeError, BytesLengthException, EOFError, InvalidDicomError, LookupError,
        NotImplementedError, TypeError, ValueError, struct.error, zlib.error,
    )  # fmt: skip
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["ViewPosition"])
        view = header.get("ViewPosition")  # pydicom decodes the value only here
    except (FileNotFoundError, NotADirectoryError):
        return {"missing": str(path)}
    except broken:
        return {"view": None}
    return {"view": str(view or "").strip() or None}
