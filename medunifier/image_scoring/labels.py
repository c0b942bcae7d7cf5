"""Labels of real images: findings from the labels of a data set, sides from the reports."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from medunifier.metrics.mentions import NAMES, findings_mentioned
from medunifier.storage.tables import LABEL_PREFIX

NO_FINDINGS = ("no_finding", "support_devices")  # labels that are no findings of a prompt
SIDES = ("left", "right")


def labelled_findings(table: pl.DataFrame) -> tuple[str, ...]:
    """Return the findings that a prepared table has labels for; without labels every finding in `NAMES`."""
    labels = [name.removeprefix(LABEL_PREFIX) for name in table.columns if name.startswith(LABEL_PREFIX)]
    return tuple(name for name in labels if name not in NO_FINDINGS) or tuple(NAMES)


def finding_labels(table: pl.DataFrame) -> tuple[list[str], np.ndarray]:
    """Return labels for each finding, for it on the left, and for it on the right.

    A label of 1 is present, blank or 0 absent, -1 unknown. Without labels a finding is present if the report
    mentions it. The side is the one that the report mentions (`findings_mentioned`). A finding that is present with
    no side in the report is unknown on both sides.

    Args:
        table: a prepared table of n images.

    Returns:
        Names and labels, int8 [n, 3 * findings]: 1 present, 0 absent, -1 unknown.
    """
    findings = labelled_findings(table)
    mentioned = [findings_mentioned(report or "", findings) for report in table["report"]]
    names, columns = [], []
    for finding in findings:
        if LABEL_PREFIX + finding in table.columns:
            present = table[LABEL_PREFIX + finding].fill_null(0).to_numpy().astype(np.int8)
        else:
            present = np.array([finding in report for report in mentioned], np.int8)
        names.append(finding)
        columns.append(present)
        sides = [report.get(finding) for report in mentioned]
        for side in SIDES:
            names.append(on_side(finding, side))
            pairs = zip(present, sides, strict=True)
            columns.append(np.array([_present_on(side, value, found) for value, found in pairs], np.int8))
    return names, np.stack(columns, axis=1)


def _present_on(side: str, present: int, mentioned: str | None) -> int:
    """Return the label of a finding on one side, from its label and the side that the report mentions."""
    if present != 1:
        return int(present)
    return -1 if mentioned is None else int(mentioned in (side, "both"))


def on_side(finding: str, side: str) -> str:
    """Return the name of a finding on one side."""
    return f"{finding}_{side}"


def single_finding(labels: np.ndarray, names: Sequence[str], findings: Sequence[str]) -> np.ndarray:
    """Return which finding an image shows, where it shows exactly one.

    Args:
        labels: [n, names] as from `finding_labels`.
        names: of the columns of `labels`.
        findings: those to consider.

    Returns:
        Index into `findings`, int64 [n]; -1 if none, several or unknown.
    """
    values = labels[:, [names.index(finding) for finding in findings]]
    one = (values == 1).sum(1) == 1
    return np.where(one & (values >= 0).all(1), values.argmax(1), -1)
