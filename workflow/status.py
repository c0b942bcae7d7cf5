"""python -m workflow.status: what every stage would do, why, and how long it took before. Starts nothing.

RUN      its command runs (or, if the stages before it leave the same files as before, it is skipped)
RESTORE  its results come from the cache, here or in DVC's remote
SKIP     nothing is to be done
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medunifier.runtime.errors import refuse
from workflow import dvc_repair
from workflow.changes import Stage, ask_dvc
from workflow.predict import Forecast


@dataclass(frozen=True)
class Line:
    """One stage of the printed table."""

    name: str
    verdict: str  # RUN, RESTORE or SKIP
    reason: str
    seconds: float | None = None  # expected wall time of a stage that runs
    gpu_hours: float | None = None


def lines(use_remote: bool = True) -> list[Line]:
    """Return every stage, in the order of dvc.yaml.

    Raises:
        InputError: DVC cannot read the pipeline.
    """
    stages = ask_dvc()
    earlier = earlier_costs()
    with dvc_repair.open_repo() as repo:
        forecast = Forecast(repo, use_remote)
        result: dict[str, Line] = {}
        for name in in_order(stages):
            stage = stages[name]
            running = [upper for upper in stage.upstream if result[upper].verdict == "RUN"]
            if not stage.changed and all(result[upper].verdict == "SKIP" for upper in stage.upstream):
                result[name] = Line(name, "SKIP", "up to date")
            elif running:
                forecast.runs(name)
                after = f"after {names(running)}"
                why = (
                    f"{stage.changed}; {after}"
                    if stage.changed
                    else f"{after}, unless its inputs come out the same"
                )
                result[name] = with_costs(Line(name, "RUN", why), earlier)
            elif place := forecast.found(name):
                verdict = "SKIP" if place == "unchanged" else "RESTORE"
                reason = (
                    "its inputs come out the same"
                    if place == "unchanged"
                    else f"{stage.changed or stage.reason}; in {place}"
                )
                result[name] = Line(name, verdict, reason)
            else:
                forecast.runs(name)
                result[name] = with_costs(Line(name, "RUN", stage.changed or stage.reason), earlier)
    return [result[name] for name in stages]


def in_order(stages: Mapping[str, Stage]) -> list[str]:
    """Return the names such that every stage comes after those it depends on."""
    placed: dict[str, None] = {}

    def place(name: str) -> None:
        for upper in stages[name].upstream:
            if upper not in placed:
                place(upper)
        placed[name] = None

    for name in stages:
        if name not in placed:
            place(name)
    return list(placed)


def earlier_costs() -> dict[str, dict[str, float]]:
    """Return the costs of each stage's last known execution here, or of the one whose results lie here."""
    costs = {}
    for folder in (Path("results/runs"), Path(os.environ.get("MEDUNIFIER_STATE", ".state")) / "costs"):
        for path in folder.glob("*.json"):
            with contextlib.suppress(ValueError, OSError):
                if cost := json.loads(path.read_text(encoding="utf-8")).get("costs"):
                    costs[path.stem] = cost
    return costs


def with_costs(line: Line, earlier: Mapping[str, Mapping[str, float]]) -> Line:
    """Return the line with the time and GPU hours of the stage's last execution, else the median of its family."""
    family = line.name.partition("@")[0]
    known = (
        [earlier[line.name]]
        if line.name in earlier
        else [cost for name, cost in earlier.items() if name.partition("@")[0] == family]
    )
    if not known:
        return line
    seconds = statistics.median(cost["wall_seconds"] for cost in known)
    hours = statistics.median(cost["gpus"] * cost["wall_seconds"] / 3600 for cost in known)
    return Line(line.name, line.verdict, line.reason, seconds, hours)


def names(several: list[str]) -> str:
    """Return the first two of them, and how many more."""
    more = f" and {len(several) - 2} more" if len(several) > 2 else ""
    return ", ".join(several[:2]) + more


def duration(seconds: float | None) -> str:
    """Return seconds as 12 s, 3 min, 2.5 h; `?` if unknown."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def table(found: list[Line]) -> str:
    """Return the lines as text, with their sums."""
    width = max(len(line.name) for line in found)
    rows = [f"{'stage':<{width}}  does     expected  GPU h  because"]
    for line in found:
        runs = line.verdict == "RUN"
        time = duration(line.seconds) if runs else ""
        hours = ("?" if line.gpu_hours is None else f"{line.gpu_hours:.2f}") if runs else ""
        rows.append(f"{line.name:<{width}}  {line.verdict:<7}  {time:>8}  {hours:>5}  {line.reason}")
    to_run = [line for line in found if line.verdict == "RUN"]
    words = ("RUN", "RESTORE", "SKIP")
    total = ", ".join(f"{sum(line.verdict == word for line in found)} {word}" for word in words)
    known = [line.seconds for line in to_run if line.seconds is not None]
    if known:
        hours = sum(line.gpu_hours or 0.0 for line in to_run)
        total += f"; expected: {duration(sum(known))} and {hours:.2f} GPU h one after another"
    if len(known) < len(to_run):
        total += f"; {len(to_run) - len(known)} without an earlier run to estimate from"
    return "\n".join([*rows, f"in all: {total}"])


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workflow.status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--no-remote", action="store_true", help="do not ask DVC's remote")
    arguments = parser.parse_args()
    try:
        print(table(lines(not arguments.no_remote)))
    except Exception as error:
        return refuse("status", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
