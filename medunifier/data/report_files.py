"""Reports as files of text, one for each study, in a folder or a zip archive: their sections, by all cores.

Imports little: each process that helps imports this module, and works only then.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from medunifier.data.dataset_files import read_file_inside, read_small_file
from medunifier.data.parallel import map_files, shared_map, without_collection
from medunifier.data.preparation.rejects import Reason
from medunifier.data.preparation.sections import (
    Report,
    decode_text,
    has_ndication,
    parse_report,
    without_ndication,
)
from medunifier.data.zip_archive import BrokenEntry, read_directory, read_entry
from medunifier.runtime.cpu import available_cores
from medunifier.runtime.errors import InputError

_FACTS = ("not_utf8", "with_ndication")  # of a report: not UTF-8; its sections depend on what NDICATION is
_SCHEMA = dict.fromkeys(("study_id", *Report._fields, "reason", "detail"), pl.String) | dict.fromkeys(
    _FACTS, pl.Boolean
)
_BLOCK = 1000  # studies that a process receives at once
_STUDIES_A_WORKER = (
    20_000  # about half a second of reading; fewer are done before another process has started
)


def read_report_files(
    root: Path, study_ids: pl.Series, paths: pl.Series, *, ndication: str, links: str
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the sections of each study's report; a file that is missing or not text gets a rejection reason.

    Args:
        root: folder of the reports, or a zip archive with a folder `files`.
        study_ids: n studies.
        paths: of their reports, below `root`.
        ndication: what the heading NDICATION is: `impression`, or anything else for `indication`.
        links: `follow`, or `inside`: a link that leads out of the root is no report.

    Returns:
        n rows as RAW_REPORTS describes them, and the counts `reports_not_utf8` and `reports_with_ndication`.

    Raises:
        InputError: `root` is neither a folder nor a zip file.
    """
    workers = min(available_cores(), 1 + len(study_ids) // _STUDIES_A_WORKER)
    with without_collection(), shared_map(workers, _parse_block) as mapped:
        ids, names = study_ids.to_list(), paths.to_list()
        locations, read = _find_reports(root, names, links)
        rows = pl.concat(
            mapped(
                [
                    (read, ndication, *(column[start : start + _BLOCK] for column in (ids, names, locations)))
                    for start in range(0, max(len(ids), 1), _BLOCK)
                ]
            )
        )
    notes = {f"reports_{name}": int(rows[name].sum()) for name in _FACTS}
    return rows.drop(_FACTS), notes


def _find_reports(root: Path, paths: list[str], links: str) -> tuple[list[Any], Callable]:
    """Return the location of each report (None: missing), and the function that reads a location's bytes."""
    if root.suffix == ".zip" and root.is_file():
        inside = {name[name.find("files/") :]: offset for name, offset in read_directory(root).items()}
        return [inside.get(path) for path in paths], partial(read_entry, str(root))
    if not root.is_dir():
        raise InputError(f"{root}: no folder and no zip file of reports; check `reports` in params.yaml")
    if links == "inside":
        return paths, partial(read_file_inside, os.path.realpath(root))
    return [f"{root}/{path}" for path in paths], read_small_file


def _parse_block(block: tuple[Callable, str, list[str], list[str], list]) -> pl.DataFrame:
    """Return the rows of some studies, and _FACTS.

    Args:
        block: the function that reads a report from its location; what NDICATION is; of each study its id, the path
            of its report, and the location.
    """
    read, ndication, ids, paths, locations = block
    rows = []
    with without_collection():
        contents = map_files(partial(_read, read), locations)
        for study_id, path, content in zip(ids, paths, contents, strict=True):
            report, reason, detail, is_utf8, depends = Report(), None, None, True, False
            if isinstance(content, tuple):
                text, is_utf8 = content
                report = parse_report(text, study_id)
                if has_ndication(text):
                    other = parse_report(without_ndication(text), study_id)
                    depends = other != report
                    report = report if ndication == "impression" else other
            elif content is None:
                reason, detail = Reason.MISSING_REPORT.value, path
            else:
                reason, detail = Reason.UNREADABLE_REPORT.value, f"{path}: {content}"
            rows.append((study_id, *report, reason, detail, not is_utf8, depends))
        columns = list(zip(*rows, strict=True)) or None  # None: no studies
        return pl.DataFrame(columns, schema=_SCHEMA, orient="col")


def _read(read: Callable, location: Any) -> tuple[str, bool] | Exception | None:
    """Return a report's text and whether it is UTF-8; None if it is missing; why it is no text."""
    try:
        content = None if location is None else read(location)
        return None if content is None else decode_text(content)
    except (UnicodeError, BrokenEntry) as error:
        return error
