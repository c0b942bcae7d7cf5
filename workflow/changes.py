"""Ask DVC which stages have changed, and record it for Snakemake: a plan file and one stamp per stage.

A stamp that exists means: DVC has nothing to do for this stage. The main snakemake process calls `make_plan`
when it starts; the jobs that it dispatches read the file instead, which spares them a second of DVC.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import write_text
from medunifier.runtime.own_encoder import ADVICE, is_own
from workflow import dvc_repair, lockfile, locks

if TYPE_CHECKING:  # DVC takes a second to import, which the jobs that only read the plan are spared
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

STATE = Path(".state")
STAMPS = STATE / "stamps"
PLAN_FILE = STATE / "plan.json"
MISSING_INPUTS = (
    "No stage makes that. Put it there, or correct the path in params.yaml: for a data set that is `root` or `index`, "
    "and `python -m stages.prepare --check DATASET` reports what it finds there."
)
UP_TO_DATE = 946684800  # mtime of every stamp that holds (2000-01-01): none is newer than another


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml as Snakemake needs it."""

    name: str  # FAMILY, or FAMILY@ITEM for a matrix or foreach
    family: str
    description: str  # `desc` of dvc.yaml
    upstream: tuple[str, ...]  # names of the stages whose outputs it reads
    changed: str  # what DVC found changed; empty if nothing
    reason: str = ""  # why it runs: what has changed, or which stages before it run

    @property
    def message(self) -> str:
        """Return one sentence on what the stage does, and why it runs."""
        return f"{self.name}: {self.description} ({self.reason})"


def make_plan() -> dict[str, Stage]:
    """Return every stage by name, in the order of dvc.yaml; bring plan file and stamps up to date.

    While another snakemake runs here, its plan is returned and nothing is touched.

    Raises:
        InputError: params.yaml breaks a rule, DVC cannot read dvc.yaml, or an input is missing.
        OSError: The disk is full or cannot be written.
    """
    # Half a second of pydantic, which the jobs that only read the plan are spared.
    from medunifier.runtime.params import load_params

    load_params()
    with locks.exclusive(STATE / "sync.lock"):
        if not locks.is_free(STATE / "run.lock"):
            return read_plan()
        stages = ask_dvc()
        plan = json.dumps([asdict(stage) for stage in stages.values()], indent=1)
        write_text(PLAN_FILE, plan, shared=True)
        _renew_stamps(stages)
        locks.clear_snakemake_locks()
    return stages


def read_plan() -> dict[str, Stage]:
    """Return the stages as the main process recorded them."""
    entries = json.loads(PLAN_FILE.read_text(encoding="utf-8"))
    return {entry["name"]: Stage(**entry | {"upstream": tuple(entry["upstream"])}) for entry in entries}


def families(stages: dict[str, Stage]) -> dict[str, bool]:
    """Return the stage families in order, and whether their stages carry an item (FAMILY@ITEM)."""
    return {stage.family: "@" in stage.name for stage in stages.values()}


def priorities(stages: dict[str, Stage]) -> dict[str, int]:
    """Return priorities: stages with the longest chain of stages after them first; among equals, those listed first."""
    after = dict.fromkeys(stages, 0)
    for name in reversed(stages):  # dvc.yaml lists a stage after those that it reads from
        for before in stages[name].upstream:
            after[before] = max(after[before], 1 + after[name])
    return {name: (after[name] + 1) * len(stages) - i for i, name in enumerate(stages, 1)}


def stamp(name: str) -> str:
    """Return the stamp file of a stage."""
    return str(STAMPS / name)


def ask_dvc() -> dict[str, Stage]:
    """Return every stage by name, with what DVC finds changed now.

    Raises:
        InputError: DVC cannot read the pipeline, or an input that no stage makes is missing.
    """
    from dvc.exceptions import DvcException

    try:
        repo = dvc_repair.open_repo()
        with repo.lock:
            lockfile.repair(repo)
            stages = named_stages(repo)
            lockfile.canonicalise(list(stages))
            if missing := missing_inputs(repo):
                lines = [
                    f"{path}: not there, but {', '.join(readers)} reads it"
                    for path, readers in missing.items()
                ]
                raise InputError("\n".join([*lines, *dict.fromkeys(map(advice_on, missing))]))
            found = {
                name: Stage(
                    name=name,
                    family=name.partition("@")[0],
                    description=stage.short_description() or "",
                    upstream=_upstream(stage, repo.index.outs_trie),
                    changed=_changes(stage),
                )
                for name, stage in stages.items()
            }
    except InputError:
        raise
    except Exception as error:
        if dvc_repair.repair():
            return ask_dvc()
        if isinstance(error, DvcException):
            raise InputError(f"DVC cannot read the pipeline: {error}") from error
        raise
    return _with_reasons(found)


def named_stages(repo: Repo) -> dict[str, PipelineStage]:
    """Return the stages of dvc.yaml by name; DVC counts plain .dvc files among its stages, too."""
    from dvc.stage import PipelineStage

    return {
        str(stage.name): stage
        for stage in repo.index.stages
        if isinstance(stage, PipelineStage) and stage.cmd
    }


def _with_reasons(stages: dict[str, Stage]) -> dict[str, Stage]:
    running = {name for name, stage in stages.items() if stage.changed}
    while more := {name for name, stage in stages.items() if running & set(stage.upstream)} - running:
        running |= more

    def reason(stage: Stage) -> str:
        before = [name for name in stage.upstream if name in running]
        after = (
            f"after {', '.join(before)}; skipped if its inputs come out the same" if before else "up to date"
        )
        return stage.changed or after

    return {name: replace(stage, reason=reason(stage)) for name, stage in stages.items()}


def advice_on(path: str) -> str:
    """Return how a missing input comes to be there."""
    return f"{ADVICE}." if is_own(path) else MISSING_INPUTS


def missing_inputs(repo) -> dict[str, list[str]]:
    """Return inputs that no stage makes and that are missing: path -> names of the stages that read them.

    DVC itself would fail at the stage, perhaps hours later, and name the file alone.
    """
    missing: dict[str, dict[str, None]] = {}  # a file may play several parts in one stage
    for stage in repo.index.stages:
        for dependency in stage.deps:
            if not _made_as(dependency, repo.index.outs_trie) and not dependency.exists:
                missing.setdefault(str(dependency), {})[stage.name] = None
    return {path: list(readers) for path, readers in missing.items()}


def _upstream(stage, outs_trie) -> tuple[str, ...]:
    """Names of the stages that make what `stage` reads.

    As DVC's own graph has it (a test compares them), without the half second that networkx takes to load.
    """
    made = [out for dependency in stage.deps for out in _made_as(dependency, outs_trie)]
    return tuple(sorted({out.stage.name for out in made if out.stage.cmd}))


def _made_as(dependency, outs_trie) -> list:
    """The outputs that equal, hold or lie in a dependency."""
    key = dependency.fs.parts(dependency.fs_path)
    outs = [step.value for step in outs_trie.prefixes(key)]
    if outs_trie.has_subtrie(key):
        outs += outs_trie.values(prefix=key)
    return outs


def _changes(stage) -> str:
    """Return what DVC finds changed about a stage, in words.

    The same questions as `dvc status`, but without its file locks, so that it works while other stages run.
    """
    if stage.frozen:
        return ""
    if not any(out.hash_info for out in stage.outs):  # no entry in dvc.lock
        return "has not run yet"
    reasons: dict[str, list[str]] = {}
    if stage.always_changed:
        reasons["always"] = ["runs"]
    if stage.changed_stage():
        reasons["modified"] = ["the command"]
    for part in (*stage.deps, *stage.outs):
        for path, status in part.status().items():  # a word or, for parameters, a word for each key
            for what, word in (status if isinstance(status, dict) else {path: status}).items():
                reasons.setdefault(word, []).append(what)
    return "; ".join(f"{word}: {', '.join(things)}" for word, things in reasons.items())


def _renew_stamps(stages: dict[str, Stage]) -> None:
    STAMPS.mkdir(parents=True, exist_ok=True)
    for stage in stages.values():
        path = STAMPS / stage.name
        if stage.changed:
            path.unlink(missing_ok=True)
        else:
            path.touch()
            os.utime(path, (UP_TO_DATE, UP_TO_DATE))
