"""The one YAML reader: YAML 1.2 as DVC reads it, errors that name the file, and no input that can make it hang."""

from pathlib import Path
from typing import Any

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import regular_file

MAX_BYTES = 16 * 2**20  # dvc.lock of several hundred stages has about 2 MiB
MAX_NODES = 100_000  # of a file with aliases, each alias counted as what it stands for
MAX_DEPTH = 100  # nested lists and mappings


class _Refused(Exception):
    """Valid YAML that would take too much time or memory to read."""


def read_yaml(path: str | Path, *, missing: str = "run from the repository root") -> Any:
    """Return the content of a YAML 1.2 file in plain Python types.

    YAML 1.2 as in DVC: `1e-3` is a number and `no` a text.

    Args:
        path: File in UTF-8.
        missing: What to do if it is not there.

    Raises:
        InputError: The file is missing or cannot be read, is not valid YAML in UTF-8, or beyond the limits above.
    """
    path = Path(path)
    try:
        if regular_file(path, missing).stat().st_size > MAX_BYTES:
            raise InputError(
                f"{path}: larger than {MAX_BYTES // 2**20} MiB, which no file of this kind needs"
            )
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid YAML in UTF-8: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Return the content of a YAML file that holds a mapping; see `read_yaml`.

    Raises:
        InputError: As `read_yaml`, or the top of the file is no mapping.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping at the top")
    return content


def parse_yaml(text: str, source: str) -> Any:
    """Return YAML 1.2 text in plain Python types; `source` names it in errors.

    Raises:
        InputError: The text is not valid YAML or beyond the limits above.
    """
    from ruamel.yaml import YAML, YAMLError  # here: half of the callers never read YAML

    try:
        _check_limits(YAML(typ="safe").parse(text))
        return YAML(typ="safe").load(text)
    except _Refused as error:
        raise InputError(f"{source}: refused: {error}") from None
    # ValueError: dates and numbers that look right and are not, such as 2001-99-99
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: not valid YAML in UTF-8: {' '.join(str(error).split())}") from None


def _check_limits(events: Any) -> None:
    """Refuse text that is nested too deeply, refers to itself or grows beyond MAX_NODES when aliases are expanded.

    Reads the parser's events one by one, so that nothing is built before it is known to be small.
    """
    sizes: dict[str, int] = {}  # of finished nodes with an anchor
    open_nodes: list[
        tuple[str | None, int]
    ] = []  # (anchor, nodes before it) of lists and mappings not finished
    nodes, aliases = 0, 0
    for event in events:
        kind = type(event).__name__
        if kind == "AliasEvent":
            if event.anchor not in sizes:
                raise _Refused(f"alias *{event.anchor} refers to itself or to nothing before it")
            nodes, aliases = nodes + sizes[event.anchor], aliases + 1
        elif kind == "ScalarEvent":
            nodes += 1
            event.value.encode()  # half of a character, as "\\ud800" gives, is a UnicodeEncodeError: no file holds it
            if event.anchor:
                sizes[event.anchor] = 1
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            open_nodes.append((event.anchor, nodes))
            nodes += 1
            if len(open_nodes) > MAX_DEPTH:
                raise _Refused(f"more than {MAX_DEPTH} levels of nesting")
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = nodes - before
        if aliases and nodes > MAX_NODES:
            raise _Refused(f"aliases that stand for more than {MAX_NODES:,} values")
