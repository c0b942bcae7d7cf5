"""dvc.lock: kept in the order of dvc.yaml, and mended if a kill cut it short while DVC wrote it.

Both functions are to be called under DVC's lock, or when no DVC can be at work.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from workflow.files import write_atomically

LOCKFILE = Path("dvc.lock")
WHOLE_COPY = Path(".state") / "dvc.lock.whole"  # the last dvc.lock known to be whole
STAGE_LINE = re.compile(r"^  (\S[^\n]*):\n", re.MULTILINE)


def canonicalise(names: Sequence[str]) -> None:
    """Sort the stages of dvc.lock by family in the order of `names`, then by name; keep a copy.

    DVC appends stages as they finish, so that parallel runs would differ by order alone. Stages that `names`
    lacks (those of other presets) stay, behind the others of their family.
    """
    if not LOCKFILE.exists():
        return
    text = LOCKFILE.read_text(encoding="utf-8")
    head, found, body = text.partition("stages:\n")
    pieces = STAGE_LINE.split(body)  # "", name, entry, name, entry, ...
    # The text is moved about rather than parsed and dumped: ten times cheaper, and the entries stay as DVC
    # wrote them. If it does not look as expected, the order is left alone.
    if found and not pieces[0] and not re.search(r"^\S", body, re.MULTILINE):
        entries = dict(zip(pieces[1::2], pieces[2::2], strict=True))
        rank = {family: place for place, family in enumerate(dict.fromkeys(map(_family, names)))}
        ordered = sorted(entries, key=lambda name: (rank.get(_family(name), len(rank)), name))
        if ordered != list(entries):
            write_atomically(
                LOCKFILE, head + found + "".join(f"  {name}:\n{entries[name]}" for name in ordered)
            )
    write_atomically(WHOLE_COPY, LOCKFILE.read_text(encoding="utf-8"))


def mend(repo) -> None:
    """Put the last whole copy in place of a dvc.lock that was cut short: DVC rewrites the file in place, and may
    be killed at that moment. What the copy lacks, or what a cut between two lines took away unnoticed, comes
    back from the run cache of `repo`, DVC's object for this folder."""
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
