"""What the headers of DICOM files say, for layouts whose index tells less."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl

from medunifier.data.preparation.rejects import Reason

_READERS = 16  # threads: opening many files waits for the disk or the network


def add_views(rows: pl.DataFrame, root: Path) -> pl.DataFrame:
    """`rows` (with `image_path`) plus `view` from (0018,5101) View Position; null where the header has none.

    A file that is not there gets its reason here, so that it does not count as one without a view; one that
    is no DICOM file has no view, and is found out when it is decoded.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(view_position, (root / path for path in rows["image_path"])))
    missing = pl.Series(["missing" in outcome for outcome in found], dtype=pl.Boolean)
    return rows.with_columns(
        pl.Series("view", [outcome.get("view") for outcome in found], pl.String),
        pl.when(missing).then(pl.lit(Reason.MISSING_IMAGE.value)).alias("reason"),
        pl.when(missing).then("image_path").alias("detail"),
    )


def view_position(path: Path) -> dict[str, str | None]:
    """{"view": PA, AP, ... or None}, or {"missing": path} if there is no such file."""
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    broken = (
        ArithmeticError, AttributeError, BytesLengthException, EOFError, InvalidDicomError, LookupError,
        NotImplementedError, TypeError, ValueError, struct.error, zlib.error,
    )  # fmt: skip
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["ViewPosition"])
        view = header.get("ViewPosition")  # decoded only here
    except (FileNotFoundError, NotADirectoryError):
        return {"missing": str(path)}
    except broken:
        return {"view": None}
    return {"view": str(view or "").strip() or None}
