"""dvc.lock: written fast and whole, kept in the order of dvc.yaml, and restored if a kill cut it short all the same.

All of this is to be done under DVC's lock, or when no DVC can be at work.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from medunifier.runtime.files import write_text

LOCKFILE = Path("dvc.lock")
WHOLE_COPY = Path(".state") / "dvc.lock.whole"  # the last dvc.lock known to be whole
HEAD = "schema: '2.0'\nstages:\n"  # of a new dvc.lock
STAGE_LINE = re.compile(r"^  (\S[^\n]*):\n", re.MULTILINE)


def write_entries_alone() -> None:
    """Have DVC, in this process, write the entries of the stages that it has run and leave the others' text alone.

    DVC itself parses and dumps the whole file, which takes seconds for some fifty stages, each time with all
    others waiting; and it writes in place, so that a kill may cut the file short.
    """
    from dvc.dvcfile import Lockfile
    from dvc.stage.serialize import to_lockfile
    from dvc.utils.serialize import dumps_yaml

    dump_whole = Lockfile.dump_stages

    def dump_stages(self, stages, **options) -> None:
        split = _split(LOCKFILE.read_text(encoding="utf-8")) if LOCKFILE.exists() else (HEAD, {})
        if split is None or Path(self.path).resolve() != LOCKFILE.resolve():
            dump_whole(self, stages, **options)
            return
        head, entries = split
        for stage in stages:
            dumped = _split(dumps_yaml({"stages": to_lockfile(stage, **options)}))
            assert dumped is not None  # DVC has just written it
            entries |= dumped[1]
        write_text(LOCKFILE, _joined(head, entries), shared=True)

    Lockfile.dump_stages = dump_stages


def canonicalise(names: Sequence[str]) -> None:
    """Sort the stages of dvc.lock by family in the order of `names`, then by name; keep a copy.

    Stages are appended as they finish, so that parallel runs would differ by order alone. Stages that `names`
    lacks (those of other presets) stay, after the others of their family.
    """
    if not LOCKFILE.exists():
        return
    text = LOCKFILE.read_text(encoding="utf-8")
    if split := _split(text):
        head, entries = split
        rank = {family: place for place, family in enumerate(dict.fromkeys(map(_family, names)))}
        ordered = sorted(entries, key=lambda name: (rank.get(_family(name), len(rank)), name))
        if ordered != list(entries):
            text = _joined(head, {name: entries[name] for name in ordered})
            write_text(LOCKFILE, text, shared=True)
    write_text(WHOLE_COPY, text, shared=True)


def _split(text: str) -> tuple[str, dict[str, str]] | None:
    """What comes before the stages, and each stage's entry; None for a file that does not look as expected.

    The text is cut up rather than parsed: ten times cheaper, and the entries stay as DVC wrote them.
    """
    head, found, body = text.partition("stages:\n")
    pieces = STAGE_LINE.split(body)  # "", name, entry, name, entry, ...
    if not found or pieces[0] or re.search(r"^\S", body, re.MULTILINE):
        return None
    return head + found, dict(zip(pieces[1::2], pieces[2::2], strict=True))


def _joined(head: str, entries: dict[str, str]) -> str:
    return head + "".join(f"  {name}:\n{entry}" for name, entry in entries.items())


def repair(repo) -> None:
    """Put the last whole copy in place of a dvc.lock that was cut short.

    DVC rewrites the file in place, and may be killed at that moment. What the copy lacks, or what a cut between two
    lines took away unnoticed, comes back from the run cache of `repo`, DVC's object for this folder.
    """
    if LOCKFILE.exists() and WHOLE_COPY.exists() and not _is_whole(repo):
        print("dvc.lock was cut short while DVC wrote it; put back its last whole copy", file=sys.stderr)
        shutil.copyfile(WHOLE_COPY, LOCKFILE)


def _is_whole(repo) -> bool:
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException

    try:
        content = Lockfile(repo, str(LOCKFILE)).load()
    except DvcException:
        return False
    return "stages" in content and LOCKFILE.read_text(encoding="utf-8").endswith("\n")


def _family(name: str) -> str:
    return name.strip("'\"").partition("@")[0]
