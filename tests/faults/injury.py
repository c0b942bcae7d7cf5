"""What a fault has done, and the commands that go with it."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from tests.faults.sandbox import Command, Sandbox

SNAKEMAKE, DVC = "snakemake --cores 1", "dvc repro"
LIMIT = 900  # seconds after which a command is stuck; the longest takes two minutes of one core


class Missed(Exception):
    """The fault hit nothing: the command had ended before, or there is no such file."""


class Stuck(Exception):
    """A command did not end."""


@dataclass
class Injury:
    """What a fault has done.

    Attributes:
        command: that the user gives again.
        hit: stages that were at work or whose outputs were damaged: these may run again.
        what: what was done, in words.
        during: whether a command ran meanwhile.
        shown: what this command printed.
    """

    command: str = SNAKEMAKE
    hit: set[str] = field(default_factory=set)
    what: str = ""
    during: bool = False
    shown: str = ""


def end(running: Command) -> int:
    """Wait for a command.

    Raises:
        Stuck: It does not end.
    """
    code = running.wait(LIMIT)
    if code is None:
        raise Stuck(f"`{running.words}` has not ended after {LIMIT} s")
    return code


def tracebacks(text: str) -> list[str]:
    """Return a remark for each kind of Python traceback in a text: users are to be shown messages instead."""
    found = re.findall(r"^Traceback .*\n(?:[ \t].*\n)*(.*)", text, re.MULTILINE)
    return [f"a traceback was shown: {error[:300]}" for error in sorted(set(found))]


def commands(stage: str, chance: random.Random) -> dict[str, str]:
    """Return a command of each program that brings a stage up to date: one in four asks for all stages."""
    if chance.random() < 0.25:
        return {"snakemake": SNAKEMAKE, "dvc": DVC}
    return {"snakemake": f"{SNAKEMAKE} .state/stamps/{stage}", "dvc": f"{DVC} {stage}"}


def unfinished_stage(sandbox: Sandbox, chance: random.Random) -> str:
    """Choose a stage and make it one that has not run yet."""
    stage = chance.choice(list(sandbox.pipeline.stages))
    sandbox.forget(stage)
    return stage
