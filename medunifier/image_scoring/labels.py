"""What real images show: labels, and sides read off the reports."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from medunifier.metrics.mentions import NAMES, findings_mentioned
from medunifier.storage.tables import LABEL_PREFIX

NO_FINDINGS = ("no_finding", "support_devices")  # labels that name nothing a prompt asks for
SIDES = ("left", "right")


def findings_of(table: pl.DataFrame) -> tuple[str, ...]:
    """The findings that a prepared table has labels for; every finding with known words where it has no labels."""
    labels = [name.removeprefix(LABEL_PREFIX) for name in table.columns if name.startswith(LABEL_PREFIX)]
    return tuple(name for name in labels if name not in NO_FINDINGS) or tuple(NAMES)


def truth_of(table: pl.DataFrame) -> tuple[list[str], np.ndarray]:
    """Names and truth, int8 [n, 3 * findings], of each finding, of it on the left, and of it on the right.

    1 present, 0 absent, -1 unknown. A label of 1 is present, blank or 0 absent, -1 unknown; without labels a
    finding is present if the report tells of it. The side is what the report says of it (`findings_mentioned`); a
    finding that is present on a side that the report does not tell is unknown there.

    Args:
        table: a prepared table.
    """
    findings = findings_of(table)
    told = [findings_mentioned(report or "", findings) for report in table["report"]]
    names, columns = [], []
    for finding in findings:
        if LABEL_PREFIX + finding in table.columns:
            present = table[LABEL_PREFIX + finding].fill_null(0).to_numpy().astype(np.int8)
        else:
            present = np.array([finding in report for report in told], np.int8)
        names.append(finding)
        columns.append(present)
        for side in SIDES:
            names.append(on_side(finding, side))
            columns.append(
                np.array(
                    [
                        _present_on(side, value, report.get(finding))
                        for value, report in zip(present, told, strict=True)
                    ],
                    np.int8,
                )
            )
    return names, np.stack(columns, axis=1)


def _present_on(side: str, present: int, told: str | None) -> int:
    if present != 1:
        return int(present)
    return -1 if told is None else int(told in (side, "both"))


def on_side(finding: str, side: str) -> str:
    """The name of a finding on one side."""
    return f"{finding}_{side}"


def single(truth: np.ndarray, names: Sequence[str], findings: Sequence[str]) -> np.ndarray:
    """The number in `findings` of the one finding that each image shows, int64 [n]; -1 if none, several or unknown.

    Args:
        truth: [n, names].
    """
    values = truth[:, [names.index(finding) for finding in findings]]
    one = (values == 1).sum(1) == 1
    return np.where(one & (values >= 0).all(1), values.argmax(1), -1)
