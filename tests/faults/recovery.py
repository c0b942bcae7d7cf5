"""What a user does after a fault: gives the same command again, and follows a printed advice if there is one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field

from medunifier.runtime.dvc_pipeline import overlap
from tests.faults.injury import SNAKEMAKE, Injury, Stuck, end, tracebacks
from tests.faults.sandbox import RECORDS, Sandbox, remove

DOCTOR = "python -m workflow.doctor --verify"
MOST_ADVICE = 4  # times in a row that an advice is followed
MOST_SHOWN = 1500  # characters of what a command printed, in a remark


@dataclass
class Outcome:
    """How a fault ended.

    Attributes:
        verdict: survived (the same command finished with equal outputs), fixed (it said what to do, and equal
            outputs came of that), wrong (outputs differ), lost (a finished stage that was not hit ran again), stuck
            (the command does not finish).
        advice: what was followed.
        remarks: what else was seen.
        shown: what the command printed that finished.
    """

    verdict: str
    shown: str = field(default="", repr=False, kw_only=True)
    advice: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def _remove(sandbox: Sandbox, path: str) -> str:
    (name,) = shlex.split(path)
    remove(sandbox.folder / name)
    return f"rm -r {name}"


def _move_away(sandbox: Sandbox, path: str) -> str:
    file = sandbox.folder / path.removeprefix("sqlite:///")
    if file.exists():
        file.rename(file.with_name(f"{file.name}.moved"))
    return f"mv {file.name} elsewhere"


def _checkout(sandbox: Sandbox, _: str) -> str:
    sandbox.toy.shell("git checkout -q dvc.lock")
    return "git checkout dvc.lock"


def _put_back_lock(sandbox: Sandbox, _: str) -> str:
    sandbox.toy.shell(f"{SNAKEMAKE} -n")
    return "snakemake -n"


def _remove_record(sandbox: Sandbox, _: str) -> str:
    remove(sandbox.folder / ".dvc/tmp/rwlock")
    return "rm .dvc/tmp/rwlock"


def _remove_empty_folders(sandbox: Sandbox, _: str) -> str:
    sandbox.toy.shell("find .dvc/cache/runs -empty -delete")
    return "find .dvc/cache/runs -empty -delete"


# What messages and docs/troubleshooting.md tell to do, and its doing.
ADVICE: tuple[tuple[re.Pattern[str], Callable[[Sandbox, str], str]], ...] = (
    (re.compile(r"restores or computes only this: rm -r (.+)"), _remove),
    (re.compile(r"fix: rm -[rf] (.+?); (?:then run the pipeline again|DVC makes a new one)"), _remove),
    (re.compile(r"(\S+): damaged \(.*\); move the file away and run the same command again"), _move_away),
    (re.compile(r"(restore it: git checkout dvc\.lock)"), _checkout),
    (re.compile(r"('\./dvc\.lock' (?:validation failed|is invalid))"), _put_back_lock),
    (re.compile(r"(JSON structure is corrupted)"), _remove_record),
    (re.compile(r"(join\(\) argument must be str)"), _remove_empty_folders),
)


def recover(sandbox: Sandbox, injury: Injury, expected: dict[str, str], finished: dict[str, str]) -> Outcome:
    """Give the same command until it finishes, and judge the outputs.

    Args:
        sandbox: after the fault.
        injury: what it did.
        expected: hashes of the undisturbed run.
        finished: executions of stages that were finished before the fault or in spite of it.
    """
    outcome = Outcome("survived", remarks=tracebacks(injury.shown))
    try:
        ended = _finish(sandbox, injury.command, outcome)
        if ended and finished.keys() - sandbox.finished().keys():
            # DVC was interrupted as it wrote dvc.lock, and the command asks for one stage: the others come back when
            # all are asked for, from DVC's cache.
            ended = _finish(sandbox, SNAKEMAKE, outcome)
        if not ended:
            outcome.verdict = "stuck"
            return outcome
        if sandbox.differences(expected):  # not noticed so far, because no stage has read it
            if _follow(sandbox, sandbox.toy.shell(f"{DOCTOR} || true"), outcome):
                _finish(sandbox, injury.command, outcome)
            if found := sandbox.differences(expected):
                outcome.verdict = "wrong"
                outcome.remarks.append(f"{len(found)} files differ: {', '.join(found[:5])}")
                return outcome
    except Stuck as error:
        outcome.verdict = "stuck"
        outcome.remarks.append(str(error))
        return outcome
    if again := ran_again(sandbox, injury.hit, finished):
        outcome.verdict = "lost"
        outcome.remarks.append(f"ran again: {', '.join(again)}")
        outcome.remarks += [text[-MOST_SHOWN:] for text in (injury.shown, outcome.shown)]
    elif outcome.advice:
        outcome.verdict = "fixed"
    return outcome


def _finish(sandbox: Sandbox, command: str, outcome: Outcome) -> bool:
    """Give a command, and again after each advice that it prints; return whether it finishes."""
    for _ in range(MOST_ADVICE):
        running = sandbox.start(command)
        code = end(running)
        outcome.remarks += tracebacks(running.text)
        text = running.text
        if code == 0:
            outcome.shown = text
            return True
        if "database disk image is malformed" in text:  # then docs/troubleshooting.md names the doctor
            text += sandbox.toy.shell(f"{DOCTOR} || true")
        if not _follow(sandbox, text, outcome):
            outcome.remarks.append(f"`{command}` ends with {code}: {running.text[-MOST_SHOWN:]}")
            return False
    return False


def _follow(sandbox: Sandbox, text: str, outcome: Outcome) -> bool:
    """Do what a text advises; return whether it advises anything."""
    told = {(follow, match[1]) for pattern, follow in ADVICE for match in pattern.finditer(text)}
    followed = {follow(sandbox, what) for follow, what in told}
    outcome.advice += sorted(followed)
    return bool(followed)


def ran_again(sandbox: Sandbox, hit: set[str], finished: dict[str, str]) -> list[str]:
    """Return stages of `finished` that were executed again for no reason.

    The one reason is that a stage reads the records of executions, and one of them is new.
    """
    now = sandbox.finished()
    again = {stage for stage, execution in finished.items() if now.get(stage) != execution}
    new_records = {
        output
        for stage in again | hit
        for output in sandbox.pipeline.stages[stage].outputs
        if RECORDS.fullmatch(output)
    }
    return sorted(
        stage
        for stage in again
        if not any(
            overlap(path, record) for path in sandbox.pipeline.stages[stage].inputs for record in new_records
        )
    )
