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


def mend() -> None:
    """Put the last whole copy in place of a dvc.lock that is empty or no YAML: DVC rewrites the file in place,
    and a kill at that moment cuts it short. What the copy lacks comes back from DVC's run cache."""
    from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml

    if not LOCKFILE.exists() or not WHOLE_COPY.exists():
        return
    text = LOCKFILE.read_text(encoding="utf-8")
    try:
        whole = text.endswith("\n") and isinstance(parse_yaml(text, str(LOCKFILE)), dict)
    except YAMLFileCorruptedError:
        whole = False
    if not whole:
        print("dvc.lock was cut short while DVC wrote it; put back its last whole copy", file=sys.stderr)
        shutil.copyfile(WHOLE_COPY, LOCKFILE)


def _family(name: str) -> str:
    return name.strip("'\"").partition("@")[0]
