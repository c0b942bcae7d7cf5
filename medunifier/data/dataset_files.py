"""The files below a data set's root: what a path may spell, what lies there, and under which name.

A path comes from an index, which may hold anything. It is relative and stays below the root as it is spelled; where
links lead is the user's choice (`links` of the data set in params.yaml).
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import polars as pl

from medunifier.data.parallel import map_files
from medunifier.data.preparation.rejects import Reason

# Suffixes, in small letters, under which files of one kind are distributed; DICOM files often have none.
KINDS = (
    (".jpg", ".jpeg"), (".png",), (".dcm", ".dicom", ".dic", ""), (".tif", ".tiff"), (".bmp",), (".gif",),
    (".webp",), (".jp2",),
)  # fmt: skip
IMAGE_SUFFIXES = tuple(suffix for kind in KINDS for suffix in kind if suffix)
_TEXT_SUFFIXES = (".csv", ".gz", ".json", ".md", ".txt", ".tgz", ".xml", ".zip")
_KNOWN_SUFFIXES = (*IMAGE_SUFFIXES, *_TEXT_SUFFIXES)
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_LONGEST_REPORT = 1 << 24  # bytes
_AT_ONCE = 1 << 14  # bytes; nearly every report is shorter


def leaves_root(column: str = "image_path") -> pl.Expr:
    """Return whether a path, as it is spelled, may leave its root: it is absolute, or climbs."""
    return pl.col(column).str.contains(r"^/|(?:^|/)\.\.(?:/|$)")


def locate_images(rows: pl.DataFrame, root: Path, links: str = "follow") -> pl.DataFrame:
    """Return `rows` with the size of each image's file, and the reason where there is none.

    A file that is not there is looked for beside its path under another spelling of its suffix (`.JPG` or `.jpeg` for
    `.jpg`; `.DCM`, `.dicom` or none for `.dcm`), unless another row lists that file.

    Args:
        rows: a table with `image_path`, relative to `root`, and perhaps `reason` and `detail`, which stay.
        root: root folder of the data set.
        links: `follow`, or `inside`: a link that leads out of the root is no file of the data set.

    Returns:
        `rows` with `image_path` as found, `bytes` (null where `reason` is set), `reason` and `detail`.
    """
    for name in ("reason", "detail"):
        if name not in rows.columns:
            rows = rows.with_columns(pl.lit(None, pl.String).alias(name))
    paths = rows["image_path"].to_list()
    unsafe = rows.select(leaves_root().fill_null(True)).to_series()
    safe = [place for place, bad in enumerate(unsafe) if not bad]
    look = partial(_file_size, os.fspath(root), _RealFolders(root) if links == "inside" else None)
    found: list[int | tuple[Reason, str]] = [(Reason.OUTSIDE_ROOT, path or "") for path in paths]
    for place, state in zip(safe, map_files(look, [paths[place] for place in safe]), strict=True):
        found[place] = state
    absent = [place for place in safe if found[place] == (Reason.MISSING_IMAGE, paths[place])]
    if absent:
        folders, listed = _Folders(root), set(paths)
        for place in absent:
            other = folders.other_spelling(paths[place])
            if other and other not in listed:
                paths[place], found[place] = other, look(other)
    problems = [None if isinstance(state, int) else state for state in found]
    return rows.with_columns(
        pl.Series("image_path", paths, pl.String),
        pl.Series("bytes", [state if isinstance(state, int) else None for state in found], pl.Int64),
        pl.coalesce("reason", pl.Series([p and p[0].value for p in problems], dtype=pl.String)).alias(
            "reason"
        ),
        pl.when(pl.col("reason").is_null())
        .then(pl.Series([p and p[1] for p in problems], dtype=pl.String))
        .otherwise("detail")
        .alias("detail"),
    )


def find_files(folder: Path, suffix: str, notes: dict[str, int] | None = None) -> dict[str, Path]:
    """Map file names without suffix to paths, for all files of one kind below `folder`, in whatever case.

    Links to folders are followed, each folder once. Of equal names, the first path counts; `._` files of macOS do not.

    Args:
        folder: where to look; it need not exist.
        suffix: of the kind, for example `.png`; `.dcm` stands for DICOM files, which may have another suffix or none.
        notes: takes `files_of_equal_name`, the number of files that do not count, if there are any.
    """
    wanted = spellings(suffix)
    found: dict[str, Path] = {}
    equal = 0
    for path in sorted(walk_files(folder)):
        name = path.name
        ending = next((end for end in wanted if end and name.lower().endswith(end)), "")
        if not ending and not ("" in wanted and _is_dicom(path)):
            continue
        equal += name[: len(name) - len(ending)] in found
        found.setdefault(name[: len(name) - len(ending)], path)
    if equal and notes is not None:
        notes["files_of_equal_name"] = notes.get("files_of_equal_name", 0) + equal
    return found


def count_images(root: Path) -> dict[str, int]:
    """Count the image files below `root` by suffix, in small letters; DICOM files without one count as `.dcm`."""
    return dict(Counter(kind for path in walk_files(root) if (kind := _image_kind(path))).most_common())


def has_images(root: Path) -> bool:
    """Return whether there is an image file below `root`."""
    return any(_image_kind(path) for path in walk_files(root))


def _image_kind(path: Path) -> str | None:
    """Return the suffix of an image file in small letters; None for another file."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return suffix
    return ".dcm" if _is_dicom(path) else None


def spellings(suffix: str) -> tuple[str, ...]:
    """Return the suffixes of the same kind of file, in small letters; "" for DICOM files without one."""
    return next((kind for kind in KINDS if suffix.lower() in kind), (suffix.lower(),))


def read_small_file(path: str) -> bytes | None:
    """Return the bytes of a report; None if there is no such file. A third of the time of Path.read_bytes.

    Raises:
        UnicodeError: It is a folder, a FIFO or a device, or too large; reading would fail or wait for ever.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise UnicodeError(os.strerror(error.errno or 0)) from error
    except ValueError:  # a zero byte in the name
        return None
    try:
        # Of a file, unless it fails; to ask what it is would take a fifth of the time.
        content = os.pread(file, _AT_ONCE, 0)
        return content if 0 < len(content) < _AT_ONCE else _read_whole(file)
    except OSError:
        return _read_whole(file)
    finally:
        os.close(file)


def _read_whole(file: int) -> bytes:
    """Return the bytes of an open file of any size, as `read_small_file` does."""
    state = os.fstat(file)
    if not stat.S_ISREG(state.st_mode):
        raise UnicodeError(_kind(state.st_mode))
    if state.st_size > _LONGEST_REPORT:
        raise UnicodeError(f"{state.st_size} bytes are no report")
    try:
        return os.pread(file, state.st_size, 0)
    except OSError as error:
        raise UnicodeError(os.strerror(error.errno or 0)) from error


def read_file_inside(root: str, path: str) -> bytes | None:
    """Return the bytes of a report as `read_small_file` does, unless a link leads out of `root`, a real path.

    Raises:
        UnicodeError: As `read_small_file`, or it lies outside.
    """
    real = os.path.realpath(os.path.join(root, path))
    if not real.startswith(root.rstrip("/") + "/"):
        raise UnicodeError("a link leads out of the folder of reports")
    return read_small_file(real)


def _file_size(root: str, real: "_RealFolders | None", path: str) -> int | tuple[Reason, str]:
    """Return the size of an image's file in bytes, or why there is none."""
    try:
        state = os.stat(os.path.join(root, path))
    except ValueError:  # not text that can be a file's name
        return Reason.MISSING_IMAGE, path
    except OSError as error:
        if error.errno in _ABSENT:
            return Reason.MISSING_IMAGE, path
        return Reason.UNREADABLE_IMAGE, f"{path}: {error.strerror}"
    if not stat.S_ISREG(state.st_mode):
        return Reason.UNREADABLE_IMAGE, f"{path}: {_kind(state.st_mode)}"
    if real is not None and not real.holds(path):
        return Reason.OUTSIDE_ROOT, f"{path} is a link that leads out of the root"
    return state.st_size


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return f"{kinds.get(stat.S_IFMT(mode), 'a device')}, not a file"


class _RealFolders:
    """Whether files lie inside the root once links are followed; each folder is resolved once."""

    def __init__(self, root: Path):
        self._root = os.path.realpath(root)
        self._folders: dict[str, str] = {}

    def holds(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(os.path.join(self._root, folder))
        real = os.path.join(self._folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        return real.startswith(self._root.rstrip("/") + "/")


class _Folders:
    """The files of folders by stem and kind; each folder is listed once."""

    def __init__(self, root: Path):
        self._root = os.fspath(root)
        self._listed: dict[str, dict[tuple[str, tuple[str, ...]], list[str]]] = {}

    def other_spelling(self, path: str) -> str | None:
        """Return the only file beside `path` that differs from it in the spelling of the suffix."""
        folder, name = os.path.split(path)
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        stem, suffix = _split(name)
        names = self._listed[folder].get((stem, spellings(suffix)), []) if suffix else []
        return os.path.join(folder, names[0]) if len(names) == 1 else None

    def _list(self, folder: str) -> dict[tuple[str, tuple[str, ...]], list[str]]:
        files: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        try:
            names = os.listdir(os.path.join(self._root, folder))
        except (OSError, ValueError):
            return files
        for name in names:
            stem, suffix = _split(name)
            files.setdefault((stem, spellings(suffix)), []).append(name)
        return files


def _split(name: str) -> tuple[str, str]:
    """Return a name's stem and its suffix of an image file; "" if it has none ("1.2.840.113" has none)."""
    suffix = next((end for end in IMAGE_SUFFIXES if name.lower().endswith(end)), "")
    return name[: len(name) - len(suffix)], suffix


def _is_dicom(path: Path) -> bool:
    """Return whether a file without a known suffix is a DICOM file (PS3.10, 7.1: DICM after 128 bytes)."""
    if path.name.startswith(".") or path.name == "DICOMDIR" or path.suffix.lower() in _KNOWN_SUFFIXES:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def walk_files(folder: Path) -> Iterable[Path]:
    """Yield every file below a folder; links are followed, but no folder is entered twice.

    Left out: what macOS adds (`._` files, __MACOSX), names that are not UTF-8, what is neither file nor folder.
    """
    seen = {os.path.realpath(folder)}
    waiting = [os.fspath(folder)]
    top = os.path.realpath(folder).rstrip("/") + "/"
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.name.startswith("._") or entry.name == "__MACOSX" or not _is_text(entry.name):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link that leads to itself
                continue
            if is_folder and entry.is_symlink():
                real = os.path.realpath(entry.path)
                # What lies below the folder is found without the link; what it lies in is none of its content.
                if real in seen or real.startswith(top) or top.startswith(real.rstrip("/") + "/"):
                    continue
                seen.add(real)
            if is_folder:
                waiting.append(entry.path)
            elif is_file:
                yield Path(entry.path)


def _is_text(name: str) -> bool:
    """Return whether a name is UTF-8, as every name in an index is."""
    return name.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in name)
